"""Ends what will not end by itself: a step over its time, a worker that was told to stop.

Python cannot interrupt a call into C, and CUDA is one. So each of these first asks the attempt to stop at its next
check point, and after a few seconds ends the whole process; the ledger then gives the step to another worker.
"""

import os
import threading
from collections.abc import Callable

import structlog

from worker.attempt import Attempt

log = structlog.get_logger(__name__)

# How long an attempt that was asked to stop may take to its next check point.
CHECK_POINT_SECONDS = 10.0
EXIT_STUCK = 70  # EX_SOFTWARE: the supervisor starts a fresh process


class Watchdog:
    """`with Watchdog(...)`: after `seconds` the attempt is out of time, and then the process."""

    def __init__(self, attempt: Attempt, seconds: float, leave: Callable[[int], None] = os._exit) -> None:
        self.attempt, self.leave = attempt, leave
        self._timer = threading.Timer(seconds, self._ask)
        self._last = threading.Timer(seconds + CHECK_POINT_SECONDS, self._end)

    def __enter__(self) -> "Watchdog":
        for timer in (self._timer, self._last):
            timer.daemon = True
            timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._last.cancel()

    def _ask(self) -> None:
        self.attempt.out_of_time = True
        self.attempt.stop()

    def _end(self) -> None:
        log.error("worker_stuck", phase=self.attempt.phase_name)
        self.leave(EXIT_STUCK)
