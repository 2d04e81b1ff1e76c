"""What becomes of the tasks that somebody listens to. All listeners of this process share two questions to the ledger,
asked twice a second: whether their keys still open anything, and how their tasks are. They share one to Redis. While
nobody listens nothing is asked, and no listener holds a thread."""

import asyncio
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import Context

import structlog
from starlette.concurrency import run_in_threadpool

from app.services import Caller
from core.errors import LedgerUnavailable
from core.ledger.moves import Ledger
from core.ledger.snapshots import Snapshot
from core.live_previews import LivePreviews

POLL_SECONDS = 0.5

log = structlog.get_logger(__name__)


class Subscription:
    """A task that is listened to, and the newest that is known of it."""

    def __init__(self) -> None:
        self.snapshot: Snapshot | None = None
        self.preview: int | None = None
        self.listeners = 0
        self.changed = asyncio.Event()
        """Set once, at the next change; then another takes its place."""

    def take(self, snapshot: Snapshot | None, preview: int | None) -> None:
        if (snapshot, preview) != (self.snapshot, self.preview):
            self.snapshot, self.preview = snapshot, preview
            self.wake()

    def wake(self) -> None:
        """Have each listener look."""
        self.changed.set()
        self.changed = asyncio.Event()


class SnapshotPoller:
    def __init__(self, ledger: Ledger, previews: LivePreviews, asks_for_keys: bool = True) -> None:
        """Without `asks_for_keys` nobody is ever asked for one."""
        self.ledger, self.previews, self.asks_for_keys = ledger, previews, asks_for_keys
        self._shown: Counter[str] = Counter()
        self._closed: set[str] = set()
        self._watched: dict[str, Subscription] = {}
        self._polling: asyncio.Task[None] | None = None
        self._asking: asyncio.Task[None] | None = None

    @property
    def is_polling(self) -> bool:
        return self._polling is not None

    def is_closed_to(self, caller: Caller) -> bool:
        """Whether a listener's key was revoked or rotated since, or there was none to ask for and now there is. Told of
        by `changed`, at the next look."""
        return caller.shown in self._closed

    @contextmanager
    def listen(self, task_id: str, caller: Caller) -> Iterator[Subscription]:
        subscription = self._watched.setdefault(task_id, Subscription())
        subscription.listeners += 1
        self._shown[caller.shown] += 1
        # In a context of its own: what it logs is not of the request that happens to be the first.
        self._polling = self._polling or asyncio.create_task(self._poll(), context=Context())
        try:
            yield subscription
        finally:
            subscription.listeners -= 1
            self._shown[caller.shown] -= 1
            if not subscription.listeners:
                del self._watched[task_id]

    async def _poll(self) -> None:
        while self._watched:
            if self._asking is None or self._asking.done():  # a Redis that is frozen holds up nothing else
                self._asking = asyncio.create_task(self._ask_for_previews())
            try:
                await self._ask_ledger()
            except LedgerUnavailable as error:
                log.warning("listeners_wait", reason=error.message)
            except Exception:
                log.exception("listeners_wait")
            await asyncio.sleep(POLL_SECONDS)
        self._polling = None

    async def _ask_ledger(self) -> None:
        found = await run_in_threadpool(self.ledger.snapshots, list(self._watched))
        # After the tasks: whoever is told what became of one, his key was open when that was so.
        self._shown = +self._shown
        closed = await run_in_threadpool(self._closed_of, list(self._shown))
        if closed != self._closed:
            self._closed = closed
            for watched in self._watched.values():
                watched.wake()
        for task_id, snapshot in found.items():
            if subscription := self._watched.get(task_id):
                subscription.take(snapshot, subscription.preview)

    def _closed_of(self, shown: Collection[str]) -> set[str]:
        if not self.asks_for_keys:
            return set()
        keys = {digest for digest in shown if digest}
        closed = keys - self.ledger.keys.live(keys) if keys else set()
        return closed | ({""} if "" in shown and self.ledger.keys.any() else set())

    async def _ask_for_previews(self) -> None:
        asked = list(self._watched)
        numbers = await run_in_threadpool(self.previews.numbers_of, asked)
        for task_id in asked:
            if subscription := self._watched.get(task_id):
                subscription.take(subscription.snapshot, numbers.get(task_id))
