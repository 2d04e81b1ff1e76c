"""Turns at what few may do at once, which are shared fairly between those who wait for one."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from core.concurrency import share_of


class Turns:
    """So many at once, of which one key has half at most. Without keys all callers are one, and have all of them.

    Who waits gets a turn before another whose owner has more of them, else in the order in which they came."""

    def __init__(self, turns: int) -> None:
        self.turns = turns
        self._taken: Counter[str] = Counter()
        self._waiting: dict[object, str] = {}
        """Whose each is, in the order in which they came."""
        self._changed = threading.Condition()

    def take_now(self, owner: str) -> bool:
        """Return whether there was a turn that nobody who waits may have; it is taken then."""
        with self._changed:
            is_free = self._may_have_one(owner) and self._next() is None
            if is_free:
                self._taken[owner] += 1
            return is_free

    def give_back(self, owner: str) -> None:
        with self._changed:
            self._taken[owner] -= 1
            self._taken += Counter()  # which leaves those that have some
            self._changed.notify_all()

    @contextmanager
    def turn(self, owner: str) -> Iterator[None]:
        """Wait for a turn, and hold it."""
        me = object()
        with self._changed:
            self._waiting[me] = owner
            try:
                self._changed.wait_for(lambda: self._next() is me)
                self._taken[owner] += 1
            finally:
                del self._waiting[me]
                self._changed.notify_all()
        try:
            yield
        finally:
            self.give_back(owner)

    def _may_have_one(self, owner: str) -> bool:
        return self._taken.total() < self.turns and self._taken[owner] < share_of(owner, self.turns)

    def _next(self) -> object | None:
        may = [who for who, owner in self._waiting.items() if self._may_have_one(owner)]
        return min(may, key=lambda who: self._taken[self._waiting[who]], default=None)
