"""The memory of a process and all that it started, at its highest."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PERIOD_SECONDS = 0.005


def memory(pid: int) -> int:
    """Bytes in memory, of the process and all below it. A page that several of them share counts once in all."""
    total = 0
    with suppress(OSError):  # it ended meanwhile
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        total += 1024 * int(next(line.split()[1] for line in rollup.splitlines() if line.startswith("Pss:")))
        for thread in os.listdir(f"/proc/{pid}/task"):
            for child in Path(f"/proc/{pid}/task/{thread}/children").read_text().split():
                total += memory(int(child))
    return total


class Meter:
    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.idle = self.peak = memory(pid)
        self._ended = threading.Event()

    def watch(self) -> None:
        while not self._ended.wait(PERIOD_SECONDS):
            self.peak = max(self.peak, memory(self.pid))

    @contextmanager
    def running(self) -> Iterator["Meter"]:
        thread = threading.Thread(target=self.watch)
        thread.start()
        try:
            yield self
        finally:
            self._ended.set()
            thread.join()
