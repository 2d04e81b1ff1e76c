"""Runs a process of Kinora that dies at a named point when it is told to:

    python -m chaos.points FOLDER worker --queue cpu

A point is armed by a file of its name in FOLDER. Who takes the file away kills itself there, as `kill -9` would.
"""

import contextlib
import os
import runpy
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.deliveries import Deliveries
from core.ledger import Ledger
from core.storage import Storage


@dataclass(frozen=True)
class Point:
    """Before or after a call of `method` of `owner`; after one only where `matters` says so."""

    name: str
    process: str
    owner: type
    method: str
    before: bool
    matters: Callable[[Any, tuple[Any, ...]], bool] = lambda result, _arguments: bool(result)


POINTS = [
    Point("picture stored, task not recorded", "app", Ledger, "create", before=True),
    Point("task recorded, bell not rung", "app", Ledger, "create", before=False),
    Point("step claimed", "worker", Ledger, "claim", before=False),
    Point("video stored, thumbnail not", "worker", Storage, "put", False, lambda _, given: "video" in given[1]),
    Point("all stored, not recorded", "worker", Ledger, "finish", before=True),
    Point("step finished, next not rung for", "worker", Ledger, "finish", False, lambda result, _: result is not None),
    Point("step taken over, not rung for", "keeper", Ledger, "take_over", before=False),
    Point("callback taken, not sent", "keeper", Deliveries, "take", before=False),
    Point("callback sent, not recorded", "keeper", Deliveries, "arrived", before=True),
]


def arm(folder: Path, point: Point) -> Path:
    """The file that is gone once somebody has died there."""
    path = folder / point.name
    path.touch()
    return path


def install(folder: Path, point: Point) -> None:
    work = getattr(point.owner, point.method)

    def works_until_armed(*given: Any, **named: Any) -> Any:
        if point.before:
            die_if_armed(folder / point.name)
        result = work(*given, **named)
        if not point.before and point.matters(result, given):
            die_if_armed(folder / point.name)
        return result

    setattr(point.owner, point.method, works_until_armed)


def die_if_armed(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
        os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    folder, module = Path(sys.argv[1]), sys.argv[2]
    for point in POINTS:
        if point.process == module:
            install(folder, point)
    sys.argv = sys.argv[2:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
