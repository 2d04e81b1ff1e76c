"""What an attempt at a paid step of somebody else's server leaves for the next attempt: `intended` is written before
the server is asked, `submitted` with the handle after it has answered, `lost` counts the answers that nobody heard."""

from collections.abc import Iterable
from typing import Any, TypedDict


class Checkpoint(TypedDict, total=False):
    provider: str
    lost: int
    """Times that an earlier attempt asked, and nobody knows whether it was heard."""
    intended: bool
    """One is about to ask, or died as it did."""
    submitted: dict[str, Any]
    """The handle by which it is asked about."""


def lost_answers(kept: Checkpoint) -> int:
    """Return how many times the server may have been asked for nothing, by what the last attempt left."""
    return kept.get("lost", 0) + ("intended" in kept)


def warnings_of(checkpoints: Iterable[Checkpoint | None]) -> list[str]:
    """Return what a task must say of its steps' checkpoints once it ends."""
    return [
        f"{kept.get('provider', 'a provider')} may have been asked, and paid, for nothing: its answer was lost"
        for kept in checkpoints
        if kept and lost_answers(kept)
    ]
