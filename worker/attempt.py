"""A running attempt, as an engine sees it: which phase it is in, how far, how long each took, whether to stop.

It knows nothing of the ledger. worker/run/lease.py carries its progress there and tells it to stop.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import structlog

from core.errors import Unavailable

log = structlog.get_logger(__name__)

Result = TypeVar("Result")

# Seconds between two tries to store or record.
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0


ROUNDING = 1e-9  # shares like 0.1 + 0.8 add up to a little less than they should


class Stopped(Exception):
    """The attempt was canceled, taken over, given back or ran out of time: leave at once."""


class Attempt:
    def __init__(self, shares: Mapping[str, float] | None = None) -> None:
        """`shares` says which part of the whole each phase is; they add up to 1."""
        self.shares = dict(shares or {})
        self.seconds: dict[str, float] = {}
        self.phase_name: str | None = None
        self.warnings: list[str] = []
        """What a user should know of how the attempt went; kept on the task when it finishes."""
        self.stored: dict[str, int] = {}
        """The bytes of each file by its key. Noted before it is stored: what never gets there is in no result."""
        self.engine_seconds = 0.0
        """Spent in the engine's `render`."""
        self._passed: set[str] = set()
        self._fraction = 0.0
        self._stop = threading.Event()
        self.out_of_time = False
        self._offered: deque[Callable[[], bytes]] = deque(maxlen=1)

    @property
    def stored_bytes(self) -> int:
        return sum(self.stored.values())

    @property
    def progress(self) -> int:
        """0 to 99: only the ledger says 100, when the video can be had."""
        share = self.shares.get(self.phase_name or "", 0.0)
        passed = sum(self.shares.get(name, 0.0) for name in tuple(self._passed))  # others ask meanwhile
        return min(99, int(100 * (passed + share * self._fraction) + ROUNDING))

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self.check()
        self.phase_name, self._fraction = name, 0.0
        self._passed.discard(name)  # it may come again
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begun
        self._passed.add(name)
        self._fraction = 0.0

    def advance(self, done: int, total: int) -> None:
        """`done` of `total` parts of this phase are finished. Raises Stopped if the attempt must end."""
        self._fraction = done / total
        self.check()

    def offer_preview(self, make: Callable[[], bytes]) -> None:
        """Offer a live preview in place of the one before: `make` returns a small animated WebP. It is called in
        another thread, later or not at all, so it costs nothing here."""
        self._offered.append(make)

    def pop_preview(self) -> Callable[[], bytes] | None:
        """Return the newest offer, once; None if there is none."""
        try:
            return self._offered.pop()
        except IndexError:
            return None

    def stop(self) -> None:
        self._stop.set()

    @property
    def is_stopped(self) -> bool:
        return self._stop.is_set()

    def check(self) -> None:
        if self.is_stopped:
            raise Stopped

    def wait(self, seconds: float) -> None:
        """Wait, unless the attempt must end. Raises Stopped."""
        if self._stop.wait(seconds):
            raise Stopped

    def keep_trying(self, what: Callable[[], Result]) -> Result:
        """The result of `what`, tried again for as long as it raises Unavailable and the attempt may go on.

        What was rendered is worth waiting for. Raises Stopped when the lease is lost meanwhile.
        """
        pause = FIRST_PAUSE
        while True:
            try:
                return what()
            except Unavailable as error:
                log.warning("tried_again", phase=self.phase_name, reason=error.message, pause=pause)
            self.wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
