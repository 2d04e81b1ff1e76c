"""Runs the finalize stage of an attempt, which needs no engine, in a thread of its own: the next clip renders
meanwhile."""

import contextvars
import threading
from collections.abc import Callable

CHECK_SECONDS = 0.1


class Finalizer:
    """One at a time, so that the frames of no more than two clips are in memory."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None

    def begin(self, work: Callable[[], None]) -> None:
        """Do `work`, which raises nothing, with this thread's context for its log lines. `wait` comes before."""
        context = contextvars.copy_context()
        # A daemon: who leaves waits for it, or has given back what it does.
        self._thread = threading.Thread(target=context.run, args=[work], name="finalizer", daemon=True)
        self._thread.start()

    def wait(self, check: Callable[[], None] = lambda: None) -> None:
        """Wait until the finalize stage that runs is over; `check` is called meanwhile and may raise."""
        while self._thread and self._thread.is_alive():
            check()
            self._thread.join(CHECK_SECONDS)
