"""Tasks at one moment, for those who watch them: many in one question, and no more of each than they are told."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import sqlalchemy as sa

from core.db.tables import events, steps, tasks
from core.status import Status
from core.task import ErrorInfo, Step, progress_of

SNAPSHOTS: sa.Select[Any] = (
    sa.select(
        *(tasks.c.task_id, tasks.c.owner, tasks.c.status, tasks.c.error_code, tasks.c.error_message),
        tasks.c.expired_at,
        *(events.c.event_id, events.c.kind),
        *(steps.c.position, steps.c.kind.label("step_kind"), steps.c.progress, steps.c.phase, steps.c.attempt),
        *(steps.c.weight, steps.c.reserved_weight),
        steps.c.status.label("step_status"),
    )
    .join(events, events.c.task_id == tasks.c.task_id)
    .join(steps, steps.c.task_id == tasks.c.task_id)
    .where(tasks.c.task_id.in_(sa.bindparam("task_ids", expanding=True)))
    .order_by(events.c.event_id, steps.c.position)
)


@dataclass(frozen=True)
class Move:
    event_id: int
    status: Status


@dataclass(frozen=True)
class RunningStep:
    kind: str
    phase: str | None
    position: int
    attempt: int


@dataclass(frozen=True)
class Snapshot:
    task_id: str
    owner: str
    status: Status
    error: ErrorInfo | None
    has_result: bool
    progress: int
    running: RunningStep | None
    steps: int
    moves: tuple[Move, ...]
    """Each change of its state since it was accepted, in order; the last one led to `status`."""

    def at(self, move: Move) -> "Snapshot":
        """As the move left it. What is not known of the past any more is left out."""
        if move == self.moves[-1]:
            return self
        return replace(self, status=move.status, error=None, has_result=False, progress=0, running=None)


def read_snapshots(connection: sa.Connection, task_ids: Sequence[str]) -> dict[str, Snapshot]:
    rows: dict[str, list[sa.Row[Any]]] = {}
    for row in connection.execute(SNAPSHOTS, {"task_ids": task_ids}):
        rows.setdefault(row.task_id, []).append(row)
    return {task_id: snapshot_from(found) for task_id, found in rows.items()}


def snapshot_from(rows: list[sa.Row[Any]]) -> Snapshot:
    """`rows` hold each step once for each event."""
    task, status = rows[0], Status(rows[0].status)
    of_first_event = [row for row in rows if row.event_id == task.event_id]
    running = next((row for row in of_first_event if row.step_status == Status.STARTED), None)
    return Snapshot(
        task_id=task.task_id,
        owner=task.owner,
        status=status,
        error=ErrorInfo(task.error_code, task.error_message) if task.error_code else None,
        has_result=status == Status.FINISHED and not task.expired_at,
        progress=progress_of(cast(list[Step], of_first_event)),  # which have what it wants of them
        running=running and RunningStep(running.step_kind, running.phase, running.position, running.attempt),
        steps=len(of_first_event),
        moves=tuple(Move(row.event_id, Status(row.kind)) for row in rows if row.position == task.position),
    )
