"""Runs a process of Kinora that dies, or freezes, at a named point when it is told to:

    python -m chaos.points FOLDER PROCESS MODULE ARGUMENTS

runs `python -m MODULE ARGUMENTS` with the points of PROCESS: app, keeper, worker or net worker.
A point is armed by a file of its name in FOLDER, which holds a signal's number. Who takes the file away sends that
signal to itself there, and leaves its process id in the file `caught`.
"""

import contextlib
import functools
import inspect
import os
import runpy
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa

import core.callbacks.deliveries
import core.ledger.moves
from core.callbacks.deliveries import Deliveries
from core.db.database import writing
from core.ledger.moves import Ledger
from core.storage import Storage

WRITES = threading.RLock()
"""Held by whichever thread writes. What freezes in the midst of a transaction keeps everybody else's waiting, as long
as it stands still: a point is where one thread is, and the others must not be there."""


AT_COMMIT = threading.local()
"""`armed` is the file of the point at which this thread will commit, if that is one."""


@dataclass(frozen=True)
class Point:
    """Where a call of `method` of `owner` begins, has written and not committed, or is over; only where `matters` says
    so of its result, which is True until it is over, and of what it was given, by name."""

    name: str
    process: str
    owner: type
    method: str
    when: Literal["before", "uncommitted", "after"]
    matters: Callable[[Any, dict[str, Any]], bool] = lambda result, _given: bool(result)


def finalizes() -> bool:
    """This process is at the end of another step besides."""
    return any(thread.name == "finalizer" for thread in threading.enumerate())


def plans(result: Any, given: dict[str, Any]) -> bool:
    """A step ends, and adds others."""
    return result is not None and bool(given.get("more"))


def did(result: Any, _given: dict[str, Any]) -> bool:
    return result is not None


def keeps(name: str) -> Callable[[Any, dict[str, Any]], bool]:
    """A step of the lane `net` keeps something by that name for its next attempt."""
    return lambda result, given: bool(result) and name in given["data"]


POINTS = [
    Point("upload checked, not stored", "app", Storage, "put", "before"),
    Point("picture stored, task not recorded", "app", Ledger, "create", "before"),
    Point("task recorded, worker not woken", "app", Ledger, "create", "after"),
    Point("step claimed", "worker", Ledger, "claim_next", "after", did),
    Point(
        "next step claimed while one is finalized",
        "worker",
        Ledger,
        "claim_next",
        "after",
        lambda claim, _: claim and finalizes(),
    ),
    Point("video stored, thumbnail not", "worker", Storage, "put", "after", lambda _, given: "video" in given["key"]),
    Point("all stored, not recorded", "worker", Ledger, "finish", "before"),
    Point("step finished, next not woken", "worker", Ledger, "finish", "after", did),
    Point("planned, not recorded", "worker", Ledger, "finish", "before", plans),
    Point("plan written, not committed", "worker", Ledger, "finish", "uncommitted", plans),
    Point("plan recorded, its steps not woken", "worker", Ledger, "finish", "after", plans),
    Point("about to ask", "net worker", Ledger, "checkpoint", "after", keeps("intended")),
    Point("answer heard, handle not recorded", "net worker", Ledger, "checkpoint", "before", keeps("submitted")),
    Point("handle recorded, nothing else", "net worker", Ledger, "checkpoint", "after", keeps("submitted")),
    Point("fetched and stored, not recorded", "net worker", Ledger, "finish", "before"),
    Point("net step finished, next not woken", "net worker", Ledger, "finish", "after", did),
    Point("step taken over, not woken", "keeper", Ledger, "take_over", "after"),
    Point("callback taken, not sent", "keeper", Deliveries, "take", "after"),
    Point("callback sent, not recorded", "keeper", Deliveries, "arrived", "before"),
]


def arm(folder: Path, point: Point, how: signal.Signals) -> Path:
    """The file that is gone once somebody has come there."""
    written, armed = folder / "written", folder / point.name
    written.write_text(str(int(how)))
    written.rename(armed)
    return armed


def install(folder: Path, point: Point) -> None:
    work, armed = getattr(point.owner, point.method), folder / point.name
    signature = inspect.signature(work)

    @functools.wraps(work)
    def works_until_armed(*given: Any, **named: Any) -> Any:
        asked = signature.bind(*given, **named).arguments
        if point.when == "before" and point.matters(True, asked):
            stop_if_armed(armed)
        if point.when == "uncommitted" and point.matters(True, asked):
            AT_COMMIT.armed = armed
        try:
            result = work(*given, **named)
        finally:
            if point.when == "uncommitted":
                AT_COMMIT.armed = None
        if point.when == "after" and point.matters(result, asked):
            stop_if_armed(armed)
        return result

    setattr(point.owner, point.method, works_until_armed)


def stop_if_armed(armed: Path) -> None:
    mine = armed.with_name(f"taken by {os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        armed.rename(mine)
        how = int(mine.read_text())
        mine.unlink()
        with WRITES:  # to this very thread: sent to the process, another one is told, and this one goes on meanwhile
            armed.with_name("caught").write_text(str(os.getpid()))
            with armed.with_name("hit").open("a") as hit:
                hit.write(f"{os.getpid()}\n")
            signal.pthread_kill(threading.get_ident(), how)


@contextlib.contextmanager
def alone(engine: sa.Engine) -> Iterator[sa.Connection]:
    with WRITES, writing(engine) as transaction:
        yield transaction
        if armed := getattr(AT_COMMIT, "armed", None):
            stop_if_armed(armed)


def main() -> None:
    folder, process, module = Path(sys.argv[1]), *sys.argv[2:4]
    for ledger in (core.ledger.moves, core.callbacks.deliveries):
        ledger.writing = alone
    for point in POINTS:
        if point.process == process:
            install(folder, point)
    sys.argv = sys.argv[3:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
