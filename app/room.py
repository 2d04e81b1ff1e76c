"""Places that are shared fairly: each holds a thread, of which the API server has 40, or a connection, of which it has
a thousand, and others must be left for what is asked meanwhile."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from core.errors import QueueFull

COME_BACK_SECONDS = 5


class Room:
    """No key gets more than half of the places. Where there are no keys all callers are one."""

    def __init__(self, places: int, full: str) -> None:
        """`full` is what is said to whoever finds none."""
        self.places = self.free = places
        self.full = full
        self._taken: Counter[str] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def place(self, owner: str, places: int = 1) -> Iterator[None]:
        """One, or so many. Raises QueueFull at once where not as many are left for `owner`."""
        most = self.places // 2 if owner else self.places
        with self._lock:
            if places > self.free or self._taken[owner] + places > most:
                raise QueueFull(self.full, retry_after=COME_BACK_SECONDS)
            self._count(owner, places)
        try:
            yield
        finally:
            with self._lock:
                self._count(owner, -places)

    def _count(self, owner: str, more: int) -> None:
        self.free -= more
        self._taken[owner] += more
        if not self._taken[owner]:
            del self._taken[owner]
