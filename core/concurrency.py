"""Slots that are shared fairly: each holds a thread, of which the API server has 40, or a connection, of which it has
a thousand, and others must be left for what is asked meanwhile."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from core.errors import QueueFull

COME_BACK_SECONDS = 5


def share_of(owner: str, all_there_is: int) -> int:
    """Return how much of a thing one caller gets at most: a key half; all who call without one are one, and get all."""
    return all_there_is // 2 if owner else all_there_is


class ConcurrencyLimit:
    """At most `slots` at once, of which one key gets half at most. Without keys all callers are one."""

    def __init__(self, slots: int, refusal: str) -> None:
        """`refusal` is the message for a caller who finds no slot free."""
        self.slots = self.free = slots
        self.refusal = refusal
        self._taken: Counter[str] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def slot(self, owner: str) -> Iterator[None]:
        """Hold one slot. Raises QueueFull at once if none is left for `owner`."""
        with self._lock:
            if not self.free or self._taken[owner] >= share_of(owner, self.slots):
                raise QueueFull(self.refusal, retry_after=COME_BACK_SECONDS)
            self._count(owner, 1)
        try:
            yield
        finally:
            with self._lock:
                self._count(owner, -1)

    def _count(self, owner: str, more: int) -> None:
        self.free -= more
        self._taken[owner] += more
        if not self._taken[owner]:
            del self._taken[owner]
