"""A running attempt, as an engine sees it: which phase it is in, how far, how long each took, whether to stop.

It knows nothing of the ledger. worker/lease.py carries its progress there and tells it to stop.
"""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


class Stopped(Exception):
    """The attempt was canceled or taken over: leave at once and write nothing."""


class Attempt:
    def __init__(self, shares: Mapping[str, float] | None = None) -> None:
        """`shares` says which part of the whole each phase is; they add up to 1."""
        self.shares = dict(shares or {})
        self.seconds: dict[str, float] = {}
        self.phase_name: str | None = None
        self._done = 0.0
        self._fraction = 0.0
        self._stop = threading.Event()

    @property
    def progress(self) -> int:
        """0 to 99: only the ledger says 100, when the video can be had."""
        share = self.shares.get(self.phase_name or "", 0.0)
        return min(99, int(100 * (self._done + share * self._fraction)))

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self.check()
        self.phase_name, self._fraction = name, 0.0
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begun
        self._done += self.shares.get(name, 0.0)
        self._fraction = 0.0

    def advance(self, done: int, total: int) -> None:
        """`done` of `total` parts of this phase are finished. Raises Stopped where the attempt must end."""
        self._fraction = done / total
        self.check()

    def stop(self) -> None:
        self._stop.set()

    def check(self) -> None:
        if self._stop.is_set():
            raise Stopped
