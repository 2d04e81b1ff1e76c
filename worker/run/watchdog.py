"""Ends what will not end by itself: a step over its time.

Python cannot interrupt a call into C, and CUDA is one. So the attempt is first asked to stop at its next check point,
and after a few seconds the whole process ends; the ledger then gives the step to another worker. A call that holds
Python's lock keeps these timers from running too, so a last one, which needs no Python, stands behind them. There is
one of that kind in a process, and several attempts may run: it stands for whichever is due first.
"""

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable

import structlog

from worker.attempt import Attempt

log = structlog.get_logger(__name__)

# How long an attempt that was asked to stop may take to its next check point.
CHECK_POINT_SECONDS = 10.0
# How much later the timer that needs no Python ends it; its exit code is 1.
LAST_RESORT_SECONDS = 5.0
EXIT_STUCK = 70  # EX_SOFTWARE: the supervisor starts a fresh process


class LastResort:
    """The timer that needs no Python."""

    def __init__(self) -> None:
        self._dues: list[float] = []
        self._lock = threading.Lock()

    def add(self, due: float) -> None:
        with self._lock:
            self._dues.append(due)
            self._set()

    def remove(self, due: float) -> None:
        with self._lock:
            self._dues.remove(due)
            self._set()

    def _set(self) -> None:
        if self._dues:
            seconds = max(0.001, min(self._dues) - time.monotonic())  # it takes no 0
            faulthandler.dump_traceback_later(seconds, exit=True, file=sys.__stderr__ or 2)
        else:
            faulthandler.cancel_dump_traceback_later()


class Watchdog:
    """`with Watchdog(...)`: after `seconds` the attempt is out of time, and then the process."""

    def __init__(
        self, attempt: Attempt, seconds: float, last_resort: LastResort, leave: Callable[[int], None] = os._exit
    ) -> None:
        """`last_resort` is the process's own."""
        self.attempt, self.seconds, self.last_resort, self.leave = attempt, seconds, last_resort, leave
        self._ended = threading.Event()
        self._due = 0.0

    def __enter__(self) -> "Watchdog":
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        self._due = time.monotonic() + self.seconds + CHECK_POINT_SECONDS + LAST_RESORT_SECONDS
        self.last_resort.add(self._due)
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.last_resort.remove(self._due)

    def _watch(self) -> None:
        if self._ended.wait(self.seconds):
            return
        self.attempt.out_of_time = True
        self.attempt.stop()
        if not self._ended.wait(CHECK_POINT_SECONDS):
            log.error("worker_stuck", phase=self.attempt.phase_name)
            self.leave(EXIT_STUCK)
