"""The states of tasks and steps, and which may follow which. Pure: no I/O."""

from enum import StrEnum


class Status(StrEnum):
    """The states of a task and of a step. The last three are final, and final is sticky."""

    QUEUED = "queued"
    STARTED = "started"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def is_final(self) -> bool:
        return self in FINAL


FINAL = frozenset({Status.FINISHED, Status.FAILED, Status.CANCELED})

# `started → queued` is a step whose attempt was lost or given back.
MOVES: dict[Status, frozenset[Status]] = {
    Status.QUEUED: frozenset({Status.STARTED, Status.FAILED, Status.CANCELED}),
    Status.STARTED: frozenset({Status.QUEUED, Status.FINISHED, Status.FAILED, Status.CANCELED}),
    Status.FINISHED: frozenset(),
    Status.FAILED: frozenset(),
    Status.CANCELED: frozenset(),
}


def sources(target: Status) -> list[Status]:
    """The states from which `target` may be reached."""
    return [status for status, targets in MOVES.items() if target in targets]
