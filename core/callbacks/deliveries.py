"""Events on their way to whoever asked for them: written with the move that they tell of, tried until they arrive.

keeper/deliverer.py does the trying.
"""

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from core.callbacks.endpoints import CallbackEvent
from core.callbacks.payloads import payload_in
from core.db.database import delete_in_batches, reading, writing
from core.db.tables import deliveries, endpoints, now, steps
from core.errors import DeliveryNotFound
from core.ids import is_id, new_id
from core.outbound import host_of
from core.task import Task, whole_percent

# Seconds after each failed try, with jitter: the schedule of Standard Webhooks 1.0. After the last one it is dead.
RETRY_SECONDS = (5, 300, 1800, 2 * 3600, 5 * 3600, 10 * 3600, 14 * 3600, 20 * 3600, 24 * 3600)
# A try that nobody reported on was lost with its keeper; a try takes at most 15 s.
TRY_SECONDS = 30.0
SCHEDULE_SECONDS = 1.1 * sum(RETRY_SECONDS) + (len(RETRY_SECONDS) + 1) * TRY_SECONDS  # at most, while a keeper runs
FORGOTTEN_SECONDS = 30 * 24 * 3600.0

WANTED = sa.select(endpoints.c.endpoint_id, endpoints.c.url, endpoints.c.events).where(
    endpoints.c.owner == sa.bindparam("owner"), endpoints.c.disabled_at.is_(None)
)
# As core/task.progress_of has it.
PROGRESS = sa.select(
    sa.func.coalesce(
        sa.func.sum(steps.c.progress * steps.c.weight)
        / sa.func.nullif(sa.func.sum(steps.c.weight + steps.c.reserved_weight), 0.0),
        0.0,
    )
).where(steps.c.task_id == sa.bindparam("task_id"))
INSERT = deliveries.insert().values(tries=0, created_at=now(), next_try_at=now())


class DeliveryStatus(StrEnum):
    PENDING = "pending"
    DELIVERED = "delivered"
    DEAD = "dead"
    """Every try failed, or it answered 410 Gone. It is kept, and can be redelivered."""


@dataclass(frozen=True)
class Delivery:
    """One event to be told at one place. `delivery_id` is the same at each try, so that a receiver can tell."""

    delivery_id: str
    task_id: str
    owner: str
    endpoint_id: str | None
    """None: the task's own `callback_url`."""
    url: str
    host: str
    event: str
    data: dict[str, Any]
    status: DeliveryStatus
    tries: int
    created_at: float
    next_try_at: float | None
    ended_at: float | None
    http_status: int | None
    """What the last try was answered with."""
    error: str | None


def wanted(tx: sa.Connection, task: Task, event: CallbackEvent) -> dict[str, str | None]:
    """Where `event` is to be told: URL → the endpoint's id, or None for the task's own `callback_url`."""
    found: dict[str, str | None] = {}
    if task.callback_url and event in task.callback_events:
        found[task.callback_url] = None
    for endpoint_id, url, events in tx.execute(WANTED, {"owner": task.owner}):
        if event in events:
            found.setdefault(url, endpoint_id)
    return found


def write(tx: sa.Connection, task: Task, event: CallbackEvent) -> None:
    """Record that `event` is to be told wherever it is wanted. `task` is as it is after the move."""
    found = wanted(tx, task, event)
    payload = payload_in(task.dialect)
    told = payload.event_name(event)
    if not found or not told:
        return
    data = payload.data(task, progress_of(tx, task.task_id))
    rows = [
        {
            "delivery_id": new_id(),
            "task_id": task.task_id,
            "owner": task.owner,
            "endpoint_id": endpoint_id,
            "url": url,
            "host": host_of(url),
            "event": told,
            "data": data,
            "status": DeliveryStatus.PENDING,
        }
        for url, endpoint_id in found.items()
    ]
    tx.execute(INSERT, rows)


def progress_of(tx: sa.Connection, task_id: str) -> int:
    """0 to 100, over all steps of the task."""
    return whole_percent(float(tx.execute(PROGRESS, {"task_id": task_id}).scalar_one()))


class Deliveries:
    def __init__(self, database: sa.Engine) -> None:
        self.database = database

    def due(self, limit: int, **busy: Collection[str]) -> list[Delivery]:
        """Those to be tried now, the longest due first; of a column named in `busy` (`url`, `host`, `owner`) without
        those with one of its values."""
        idle = [deliveries.c[column].not_in(sorted(values)) for column, values in busy.items()]
        query = sa.select(deliveries).where(_due(), *idle).order_by(deliveries.c.next_try_at).limit(limit)
        with reading(self.database) as connection:
            return [_delivery(row) for row in connection.execute(query)]

    def take(self, delivery_id: str) -> Delivery | None:
        """Begin a try. None: another keeper did."""
        taken = deliveries.update().where(deliveries.c.delivery_id == delivery_id, _due())
        with writing(self.database) as tx:
            row = tx.execute(taken.values(next_try_at=now() + TRY_SECONDS).returning(deliveries)).one_or_none()
        return _delivery(row) if row else None

    def arrived(self, delivery: Delivery, http_status: int) -> None:
        self._end(delivery, DeliveryStatus.DELIVERED, http_status, None)

    def missed(self, delivery: Delivery, http_status: int | None, error: str, jitter: float) -> None:
        """The try failed: try again later, or never. `jitter`, from -1 to 1, moves the next try by up to a tenth."""
        if delivery.tries >= len(RETRY_SECONDS):
            self._end(delivery, DeliveryStatus.DEAD, http_status, error)
            return
        pause = RETRY_SECONDS[delivery.tries] * (1 + jitter / 10)
        with writing(self.database) as tx:
            self._change(
                tx, delivery, tries=delivery.tries + 1, next_try_at=now() + pause, http_status=http_status, error=error
            )

    def gone(self, delivery: Delivery, http_status: int, error: str) -> None:
        """The receiver wants no more: the endpoint is switched off, and what waits for it will not be tried."""
        self._end(delivery, DeliveryStatus.DEAD, http_status, error)
        if delivery.endpoint_id is None:
            return
        with writing(self.database) as tx:
            its = endpoints.c.endpoint_id == delivery.endpoint_id
            tx.execute(endpoints.update().where(its).values(disabled_at=now()))
            waiting = sa.and_(
                deliveries.c.endpoint_id == delivery.endpoint_id, deliveries.c.status == DeliveryStatus.PENDING
            )
            ended = {"status": DeliveryStatus.DEAD, "ended_at": now(), "next_try_at": None, "error": error}
            tx.execute(deliveries.update().where(waiting).values(**ended))

    def redeliver(self, owner: str | None, delivery_id: str) -> Delivery:
        """Try it again at once, whatever became of it, with the whole schedule. Raises DeliveryNotFound."""
        its = sa.and_(_of(owner), deliveries.c.delivery_id == delivery_id)
        again = {"status": DeliveryStatus.PENDING, "tries": 0, "next_try_at": now(), "ended_at": None}
        again["redelivered_at"] = now()
        row = None
        if is_id(delivery_id):
            with writing(self.database) as tx:
                row = tx.execute(deliveries.update().where(its).values(**again).returning(deliveries)).one_or_none()
        if row is None:
            raise DeliveryNotFound(f"there is no delivery {delivery_id!r}", param="delivery_id")
        return _delivery(row)

    def page(
        self, owner: str | None, *, status: DeliveryStatus | None, task_id: str | None, after: str | None, limit: int
    ) -> list[Delivery]:
        """Of one owner, or of all; newest first, those older than the delivery `after`."""
        query = sa.select(deliveries).where(_of(owner)).order_by(deliveries.c.delivery_id.desc())
        for column, value in ((deliveries.c.status, status), (deliveries.c.task_id, task_id)):
            if value:
                query = query.where(column == value)
        if after:
            query = query.where(deliveries.c.delivery_id < after)
        with reading(self.database) as connection:
            return [_delivery(row) for row in connection.execute(query.limit(limit))]

    def waiting(self) -> dict[DeliveryStatus, int]:
        """How many are pending, and how many dead."""
        kept = (DeliveryStatus.PENDING, DeliveryStatus.DEAD)
        query = (
            sa.select(deliveries.c.status, sa.func.count())
            .where(deliveries.c.status.in_(kept))
            .group_by(deliveries.c.status)
        )
        with reading(self.database) as connection:
            found = {DeliveryStatus(status): count for status, count in connection.execute(query)}
        return {status: found.get(status, 0) for status in kept}

    def forget_old(self) -> None:
        """Drop those that ended a month ago."""
        delete_in_batches(self.database, deliveries, deliveries.c.ended_at < now() - FORGOTTEN_SECONDS)

    def _end(self, delivery: Delivery, status: DeliveryStatus, http_status: int | None, error: str | None) -> None:
        ended = {"status": status, "ended_at": now(), "next_try_at": None, "tries": delivery.tries + 1}
        with writing(self.database) as tx:
            self._change(tx, delivery, http_status=http_status, error=error, **ended)

    def _change(self, tx: sa.Connection, delivery: Delivery, **values: Any) -> None:
        """Of the try that `delivery` was taken for, and of no later one."""
        its = sa.and_(
            deliveries.c.delivery_id == delivery.delivery_id,
            deliveries.c.status == DeliveryStatus.PENDING,
            deliveries.c.next_try_at == delivery.next_try_at,
        )
        tx.execute(deliveries.update().where(its).values(**values))


def _of(owner: str | None) -> sa.ColumnElement[bool]:
    return sa.true() if owner is None else deliveries.c.owner == owner


def _due() -> sa.ColumnElement[bool]:
    return sa.and_(deliveries.c.status == DeliveryStatus.PENDING, deliveries.c.next_try_at <= now())


def _delivery(row: sa.Row[Any]) -> Delivery:
    fields = {name: getattr(row, name) for name in Delivery.__dataclass_fields__ if name != "status"}
    return Delivery(**fields, status=DeliveryStatus(row.status))
