"""Runs a process of Kinora that dies, or freezes, at a named point when it is told to:

    python -m chaos.points FOLDER PROCESS MODULE ARGUMENTS

runs `python -m MODULE ARGUMENTS` with the points of PROCESS: app, keeper or worker.
A point is armed by a file of its name in FOLDER, which holds a signal's number. Who takes the file away sends that
signal to itself there, and leaves its process id in the file `caught`.
"""

import contextlib
import os
import runpy
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


@dataclass(frozen=True)
class Point:
    """Before or after a call of `method` of `owner`; after one only where `matters` says so."""

    name: str
    process: str
    owner: type
    method: str
    before: bool
    matters: Callable[[Any, tuple[Any, ...]], bool] = lambda result, _arguments: bool(result)


def finalizes() -> bool:
    """This process is at the end of another step besides."""
    return any(thread.name == "finalizer" for thread in threading.enumerate())


POINTS = [
    Point("upload checked, not stored", "app", Storage, "put", before=True),
    Point("picture stored, task not recorded", "app", Ledger, "create", before=True),
    Point("task recorded, worker not woken", "app", Ledger, "create", before=False),
    Point("step claimed", "worker", Ledger, "claim_next", False, lambda claim, _: claim is not None),
    Point(
        "next step claimed while one is finalized",
        "worker",
        Ledger,
        "claim_next",
        False,
        lambda claim, _: claim and finalizes(),
    ),
    Point("video stored, thumbnail not", "worker", Storage, "put", False, lambda _, given: "video" in given[1]),
    Point("all stored, not recorded", "worker", Ledger, "finish", before=True),
    Point("step finished, next not woken", "worker", Ledger, "finish", False, lambda result, _: result is not None),
    Point("step taken over, not woken", "keeper", Ledger, "take_over", before=False),
    Point("callback taken, not sent", "keeper", Deliveries, "take", before=False),
    Point("callback sent, not recorded", "keeper", Deliveries, "arrived", before=True),
]


def arm(folder: Path, point: Point, how: signal.Signals) -> Path:
    """The file that is gone once somebody has come there."""
    written, armed = folder / "written", folder / point.name
    written.write_text(str(int(how)))
    written.rename(armed)
    return armed


def install(folder: Path, point: Point) -> None:
    work = getattr(point.owner, point.method)

    def works_until_armed(*given: Any, **named: Any) -> Any:
        if point.before:
            stop_if_armed(folder / point.name)
        result = work(*given, **named)
        if not point.before and point.matters(result, given):
            stop_if_armed(folder / point.name)
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
