"""Which tasks the ledger need not keep any more: ended ones, of which nothing is still to be told. With a task goes all
that is recorded of it."""

from typing import Any, NamedTuple

import sqlalchemy as sa

from core.callbacks.deliveries import SCHEDULE_SECONDS, DeliveryStatus
from core.db.tables import deliveries, now, tasks
from core.status import Status

# After its end, at least: until then MAX_TASKS_PER_HOUR counts it, its idempotency key gives it, and a worker may
# still have to delete what it stored.
KEPT_SECONDS = 24 * 3600.0
SURPLUS_AT_ONCE = 20_000  # of each owner and hour

OWNER: sa.BindParameter[str] = sa.bindparam("owner")
# What is told once more, which can be asked for again and again, holds no task for longer than its first schedule.
IN_FIRST_SCHEDULE = sa.or_(
    deliveries.c.redelivered_at.is_(None), deliveries.c.created_at > now() - sa.literal(SCHEDULE_SECONDS)
)
TOLD = ~sa.exists().where(
    deliveries.c.task_id == tasks.c.task_id, deliveries.c.status == DeliveryStatus.PENDING, IN_FIRST_SCHEDULE
)
OLD = (
    sa.select(tasks.c.task_id)
    .where(tasks.c.expired_at < now() - sa.bindparam("task_ttl", type_=sa.Double), TOLD)
    .order_by(tasks.c.expired_at)
    .limit(sa.bindparam("limit"))
)
MANY = sa.select(tasks.c.owner).group_by(tasks.c.owner).having(sa.func.count() > sa.bindparam("most"))
NEWEST_SURPLUS = (
    sa.select(tasks.c.task_id)
    .where(tasks.c.owner == OWNER)
    .order_by(tasks.c.task_id.desc())
    .limit(1)
    .offset(sa.bindparam("most"))
)
SURPLUS = (
    sa.select(tasks.c.task_id, tasks.c.expired_at)
    .where(tasks.c.owner == OWNER, tasks.c.task_id <= NEWEST_SURPLUS.scalar_subquery())
    .where(tasks.c.finished_at < now() - KEPT_SECONDS, TOLD)
    .where(sa.or_(tasks.c.expired_at.is_not(None), tasks.c.status != Status.FINISHED))
    .order_by(tasks.c.task_id)
    .limit(SURPLUS_AT_ONCE)
)
FORGET = tasks.delete().where(
    tasks.c.task_id.in_(sa.bindparam("task_ids", expanding=True)), tasks.c.finished_at.is_not(None), TOLD
)


class SurplusTask(NamedTuple):
    task_id: str
    is_stored: bool
    """Whether its files are not deleted yet."""


def old_tasks(connection: sa.Connection, task_ttl: float, limit: int) -> list[str]:
    """Return those whose files were deleted `task_ttl` seconds ago, the longest ago first."""
    return list(connection.execute(OLD, {"task_ttl": task_ttl, "limit": limit}).scalars())


def surplus_tasks(connection: sa.Connection, most: int) -> list[SurplusTask]:
    """Return, of each owner who has more than `most` tasks, those beyond the newest `most` that ended a day ago and
    have no video, or have it no more; the oldest first."""
    found: list[sa.Row[Any]] = []
    for owner in connection.execute(MANY, {"most": most}).scalars().all():
        found += connection.execute(SURPLUS, {"owner": owner, "most": most})
    return [SurplusTask(row.task_id, row.expired_at is None) for row in found]
