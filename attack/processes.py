"""What each process of the service holds: memory, threads, open files."""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from harness.stack import Stack

PERIOD_SECONDS = 0.2


class Holding(NamedTuple):
    memory: int = 0
    """Bytes (Pss): a page that several processes share is divided among them."""
    threads: int = 0
    files: int = 0

    def most(self, other: "Holding") -> "Holding":
        return Holding(*map(max, self, other))


Holdings = dict[str, Holding]
"""By the process's name; of several of a name, what the largest has."""


def holdings(stack: Stack) -> Holdings:
    found: Holdings = {}
    for name, process in stack.processes.items():
        with suppress(psutil.NoSuchProcess):
            first = psutil.Process(process.pid)
            for each in [first, *first.children(recursive=True)]:
                with suppress(OSError, psutil.Error):  # it has ended meanwhile
                    label = label_of(name, first, each)
                    found[label] = held(each).most(found.get(label, Holding()))
    return found


def label_of(name: str, first: psutil.Process, process: psutil.Process) -> str:
    """The API server has a child, the sandbox, and that has one for each picture."""
    if process == first:
        return name
    return f"{name}'s sandbox" if process.ppid() == first.pid else f"{name}'s decoder"


def held(process: psutil.Process) -> Holding:
    rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    memory = 1024 * int(next(line.split()[1] for line in rollup.splitlines() if line.startswith("Pss:")))
    return Holding(memory, process.num_threads(), process.num_fds())


def most_of(samples: Mapping[float, Holdings], begin: float, end: float) -> Holdings:
    """Return the most that each process held at a time between."""
    most: Holdings = {}
    for at, sample in samples.items():
        if begin <= at < end:
            for name, holding in sample.items():
                most[name] = holding.most(most.get(name, Holding()))
    return most


@contextmanager
def watching(stack: Stack) -> Iterator[dict[float, Holdings]]:
    """Yield what fills with the holdings of all processes, by time.monotonic()."""
    samples: dict[float, Holdings] = {}
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(PERIOD_SECONDS):
            samples[time.monotonic()] = holdings(stack)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield samples
    finally:
        ended.set()
        thread.join()
