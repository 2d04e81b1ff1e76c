"""Which step of a queue is served next: tasks take turns, and of one task the steps come in the order of its plan."""

from collections.abc import Collection
from typing import Any

import sqlalchemy as sa

from core.db.tables import now, steps, tasks
from core.status import Status

# The keeper ends each rest, by its own clock: the database's may jump.
DUE = steps.c.rest_seconds <= 0

QUEUE: sa.BindParameter[str] = sa.bindparam("of_queue")
LOADED: sa.BindParameter[list[str]] = sa.bindparam("loaded", expanding=True)
DEFERRED: sa.BindParameter[float] = sa.bindparam("deferred_seconds")
KINDS: sa.BindParameter[list[str]] = sa.bindparam("kinds", expanding=True)
ANY_KIND: sa.BindParameter[bool] = sa.bindparam("any_kind", type_=sa.Boolean)
READY = sa.and_(steps.c.status == Status.QUEUED, steps.c.waits_for == 0)
# Worked out once for all rows that are put in order.
NOW_ONCE = sa.select(now()).scalar_subquery()


def turn_of(claimed_at: sa.ColumnElement[float], created_at: sa.ColumnElement[float]) -> sa.ColumnElement[float]:
    """Return when the task was served last, or was created. One that was claimed at a time to come was so before the
    clock was set back."""
    return sa.case((claimed_at <= NOW_ONCE, claimed_at), else_=created_at)


# A step whose engine is not loaded gives way for a while: to load it takes as long as several clips.
GIVES_WAY = sa.case(
    (
        sa.or_(
            *(steps.c.engine.is_(None), steps.c.engine.in_(LOADED)),
            *(steps.c.ready_at <= NOW_ONCE - DEFERRED, steps.c.ready_at > NOW_ONCE + DEFERRED),
        ),
        0,
    ),
    else_=1,
)
# The order in which a queue is served: tasks take turns, and of one task the steps come in the order of its plan. Each
# step knows its task's turn: to look up the tasks of all that wait takes PostgreSQL as long as the rest of a claim.
IN_ORDER = (
    sa.select(
        *(steps.c.step_id, steps.c.task_id, steps.c.position, GIVES_WAY.label("gives_way")),
        turn_of(steps.c.task_claimed_at, steps.c.task_created_at).label("turn"),
    )
    .where(steps.c.queue == QUEUE, READY, DUE, sa.or_(ANY_KIND, steps.c.kind.in_(KINDS)))
    .order_by("gives_way", "turn", steps.c.task_id, steps.c.position)
)


def first_of(in_order: sa.Subquery) -> sa.Select[Any]:
    """Return the query for the first of these steps, with its task. The order is said again, so that it holds, and
    costs nothing: PostgreSQL sees that it is there already, and looks up no more tasks than it must."""
    return (
        sa.select(in_order.c.step_id, tasks)
        .join(tasks, tasks.c.task_id == in_order.c.task_id)
        .where(tasks.c.finished_at.is_(None))
        .order_by(in_order.c.gives_way, in_order.c.turn, in_order.c.task_id, in_order.c.position)
        .limit(1)
    )


# SQLite looks up the tasks of all that it puts in order. One would do, for no step waits whose task has ended; but
# should there be some, they hold up nobody.
NEXT = first_of(IN_ORDER.limit(100).subquery("in_order"))
# Others' tasks are skipped while they lock them: on PostgreSQL several workers claim at once.
NEXT_UNLOCKED = first_of(IN_ORDER.subquery("in_order")).with_for_update(key_share=True, skip_locked=True, of=tasks)


def parameters_of_next(
    queue: str, loaded: Collection[str] = (), defer_seconds: float = 0.0, kinds: Collection[str] | None = None
) -> dict[str, Any]:
    """Return what NEXT is asked with. `kinds` None: of any kind."""
    which = {"any_kind": kinds is None, "kinds": list(kinds or ())}
    return which | {"of_queue": queue, "loaded": list(loaded), "deferred_seconds": defer_seconds}
