"""How much of the service one key may use, and how much may wait in all. Checked in the transaction that records a
task, so that requests which come at the same time cannot pass together. A caller without a key has no quota."""

import math

import sqlalchemy as sa

from core.db.tables import api_keys, now, tasks
from core.errors import QueueFull, QuotaExceeded
from core.ledger import statements
from core.status import Status
from core.task import Bounds, Quota

HOUR = 3600.0
OWNER: sa.BindParameter[str] = sa.bindparam("owner")
# Built once: each is asked twice with every task of a key.
CREATED_OF_HOUR = (
    sa.select(tasks.c.created_at, now().label("now"))
    .where(tasks.c.owner == OWNER, tasks.c.created_at > now() - HOUR)
    .order_by(tasks.c.created_at.desc())
    .limit(1)
    .offset(sa.bindparam("newer"))
)
WAITING_OF = (
    sa.select(tasks.c.task_id)
    .where(tasks.c.owner == OWNER, tasks.c.status == Status.QUEUED)
    .limit(sa.bindparam("most"))
)
STORED_BY = sa.select(api_keys.c.stored_bytes).where(api_keys.c.key_id == OWNER)
FULL_SECONDS = 3600  # nothing comes free by itself before a task's RESULT_TTL is over: there is no hurry


def add_stored_bytes(tx: sa.Connection, owner: str, stored_bytes: int) -> None:
    """Count what was stored for the owner; less than nothing is what was deleted. Until `tx` ends, the key's row is
    this transaction's."""
    if owner:
        its = api_keys.c.key_id == owner
        tx.execute(api_keys.update().where(its).values(stored_bytes=api_keys.c.stored_bytes + stored_bytes))


def check(tx: sa.Connection, owner: str, quota: Quota, more: int = 0) -> None:
    """Raises QuotaExceeded if the task that `tx` has just recorded, and added, is one too many; with `more`, where
    so many more tasks, and bytes, would be."""
    if not owner:
        return
    _check_hour(tx, owner, quota.tasks_per_hour, more)
    _check_waiting(tx, owner, quota.waiting, more)
    stored = tx.execute(STORED_BY, {"owner": owner}).scalar_one() + more
    if quota.stored_bytes and stored > quota.stored_bytes:
        raise QuotaExceeded(
            f"this key may store {quota.stored_bytes / 1e6:.0f} MB and would have {stored / 1e6:.1f} MB: delete tasks",
            retry_after=FULL_SECONDS,
        )


def check_bounds(tx: sa.Connection, queues: set[str], bounds: Bounds) -> None:
    """Raises QueueFull if one more waiting task, which begins in these queues, would be one too many."""
    waiting = {row.queue: row.waiting for row in tx.execute(statements.WAITING_STEPS)}
    if sum(waiting.values()) >= bounds.waiting:
        raise QueueFull(f"{bounds.waiting} tasks wait, and no more may")
    for queue in queues:
        if waiting.get(queue, 0) >= bounds.waiting_per_queue:
            raise QueueFull(f"{bounds.waiting_per_queue} tasks wait for the queue {queue}, and no more may")


def _check_hour(tx: sa.Connection, owner: str, most: int, more: int) -> None:
    """The task that fills the hour is the one that must grow old before there is room."""
    if not most:
        return
    found = tx.execute(CREATED_OF_HOUR, {"owner": owner, "newer": most - more}).one_or_none()
    if found:
        left = found.created_at + HOUR - found.now
        message = f"this key may make {most} tasks an hour"
        raise QuotaExceeded(message, retry_after=max(1, math.ceil(left)))


def _check_waiting(tx: sa.Connection, owner: str, most: int, more: int) -> None:
    if not most:
        return
    if len(tx.execute(WAITING_OF, {"owner": owner, "most": most + 1}).all()) + more > most:
        raise QuotaExceeded(f"{most} tasks of this key wait, and no more may")
