"""Ends what will not end by itself: a step over its time.

Python cannot interrupt a call into C, and CUDA is one. So the attempt is first asked to stop at its next check point,
and after a few seconds the whole process ends; the ledger then gives the step to another worker. A call that holds
Python's lock keeps these timers from running too, so a last one, which needs no Python, stands behind them.
"""

import faulthandler
import os
import sys
import threading
from collections.abc import Callable

import structlog

from worker.attempt import Attempt

log = structlog.get_logger(__name__)

# How long an attempt that was asked to stop may take to its next check point.
CHECK_POINT_SECONDS = 10.0
# How much later the timer that needs no Python ends it; its exit code is 1.
LAST_RESORT_SECONDS = 5.0
EXIT_STUCK = 70  # EX_SOFTWARE: the supervisor starts a fresh process


class Watchdog:
    """`with Watchdog(...)`: after `seconds` the attempt is out of time, and then the process."""

    def __init__(self, attempt: Attempt, seconds: float, leave: Callable[[int], None] = os._exit) -> None:
        self.attempt, self.leave = attempt, leave
        self._timer = threading.Timer(seconds, self._ask)
        self._last = threading.Timer(seconds + CHECK_POINT_SECONDS, self._end)
        self._last_resort = seconds + CHECK_POINT_SECONDS + LAST_RESORT_SECONDS

    def __enter__(self) -> "Watchdog":
        for timer in (self._timer, self._last):
            timer.daemon = True
            timer.start()
        faulthandler.dump_traceback_later(self._last_resort, exit=True, file=sys.__stderr__ or 2)
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._last.cancel()
        faulthandler.cancel_dump_traceback_later()

    def _ask(self) -> None:
        self.attempt.out_of_time = True
        self.attempt.stop()

    def _end(self) -> None:
        log.error("worker_stuck", phase=self.attempt.phase_name)
        self.leave(EXIT_STUCK)
