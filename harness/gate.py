"""A gate in a worker: attempts wait in a phase for as long as a test likes, and take no core from anybody meanwhile.

    python -m harness.gate FOLDER [--overlap] --queue cpu

is `python -m worker`, but an attempt waits in a phase while FOLDER holds a file of the phase's name: until the file is
gone, or the attempt is stopped. With `--overlap` there is one at a time, and a step is finalized beside the next one,
as on a GPU.
"""

import importlib
import runpy
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from worker.attempt import Attempt

LOOK_AGAIN_SECONDS = 0.01


class Gate:
    """Closed and opened by a test, for all workers that were given its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)

    def close(self, phase: str = "render", after: int = 0) -> None:
        """Let no attempt go on in `phase` once `after` parts of it are done."""
        new = self.folder / "new"
        new.write_text(str(after))
        new.rename(self.folder / phase)

    def open(self) -> None:
        """Let every attempt go on, in every phase."""
        for file in self.folder.iterdir():
            file.unlink()


def install(folder: Path) -> None:
    phase, advance = Attempt.phase, Attempt.advance

    @contextmanager
    def gated_phase(attempt: Attempt, name: str) -> Iterator[None]:
        with phase(attempt, name):
            wait(attempt, folder / name, 0)
            yield

    def gated_advance(attempt: Attempt, done: int, total: int) -> None:
        advance(attempt, done, total)
        wait(attempt, folder / str(attempt.phase_name), done)

    Attempt.phase, Attempt.advance = gated_phase, gated_advance  # type: ignore[method-assign]  # that is what it is for


def work_as_on_a_gpu() -> None:
    """Have the workers of this process do one step at a time, finalized beside the next one, whatever their queue."""
    importlib.import_module("worker.run.runner").overlaps = lambda _context: True  # type: ignore[attr-defined]  # a module
    importlib.import_module("worker.main").LANES["cpu"] = importlib.import_module("worker.run.lanes").Lane


def wait(attempt: Attempt, closed: Path, done: int) -> None:
    """Raises Stopped."""
    while reached(closed, done):
        attempt.check()
        time.sleep(LOOK_AGAIN_SECONDS)


def reached(closed: Path, done: int) -> bool:
    try:
        return done >= int(closed.read_text())
    except FileNotFoundError:
        return False


def main() -> None:
    install(Path(sys.argv[1]))
    rest = sys.argv[2:]
    if "--overlap" in rest:
        rest.remove("--overlap")
        work_as_on_a_gpu()
    sys.argv = ["worker", *rest]
    runpy.run_module("worker", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
