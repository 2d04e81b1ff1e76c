"""The ledger's statements on the path of a task, built once: building one costs several times what SQLite needs
to run it."""

import sqlalchemy as sa

from core.db.tables import artifacts, attempts, events, inputs, needs, now, steps, tasks
from core.ledger.queue_order import DUE
from core.status import Status

STEP: sa.BindParameter[str] = sa.bindparam("of_step")
ATTEMPT: sa.BindParameter[int] = sa.bindparam("of_attempt")
WORKER: sa.BindParameter[str] = sa.bindparam("by_worker")
LEASE: sa.BindParameter[float] = sa.bindparam("lease_seconds")
IS_MINE = sa.and_(steps.c.step_id == STEP, steps.c.attempt == ATTEMPT, steps.c.status == Status.STARTED)

NOW = sa.select(now())
INSERT_TASK = tasks.insert().values(status=Status.QUEUED, created_at=now())
OF_TASK = tasks.c.task_id == sa.bindparam("of_task")
INSERT_STEP = steps.insert().values(
    status=Status.QUEUED,
    attempt=0,
    progress=0,
    ready_at=now(),
    task_created_at=sa.select(tasks.c.created_at).where(OF_TASK).scalar_subquery(),
    task_claimed_at=sa.select(tasks.c.claimed_at).where(OF_TASK).scalar_subquery(),
)
INSERT_ATTEMPT = attempts.insert()
INSERT_INPUT = inputs.insert()
INSERT_ARTIFACT = artifacts.insert()
INSERT_EVENT = events.insert().values(created_at=now())
# FOR NO KEY UPDATE: rows that only refer to the task may be written meanwhile, as a renewal's delivery is.
LOCK_TASK = sa.select(tasks).where(tasks.c.task_id == sa.bindparam("task_id")).with_for_update(key_share=True)
LOCK_TASK_OF = (
    sa.select(tasks)
    .where(tasks.c.task_id == sa.select(steps.c.task_id).where(steps.c.step_id == STEP).scalar_subquery())
    .with_for_update(key_share=True)
)
CLAIM = (
    steps.update()
    .where(steps.c.step_id == STEP, steps.c.status == Status.QUEUED)
    .where(steps.c.waits_for == 0, DUE)
    .values(
        status=Status.STARTED,
        attempt=steps.c.attempt + 1,
        worker_id=WORKER,
        started_at=now(),
        lease_until=now() + LEASE,
        phase=None,
    )
    .returning(steps)
)
# Those of its steps that wait, in the order of their ids, as whoever cancels several steps locks them too. And not by
# the status, which has an index: with statistics of a quieter hour all that waits would be gone through.
WAITING_OF_TASK = (
    sa.select(steps.c.step_id)
    .where(steps.c.task_id == sa.bindparam("of_task"), steps.c.worker_id.is_(None), steps.c.finished_at.is_(None))
    .order_by(steps.c.step_id)
    .with_for_update(key_share=True)
)
PASS_TURN = steps.update().where(steps.c.step_id.in_(WAITING_OF_TASK)).values(task_claimed_at=sa.bindparam("claimed"))
TASK_CLAIMED_AT = sa.select(tasks.c.claimed_at).where(tasks.c.task_id == steps.c.task_id).scalar_subquery()
# What one attempt had done stands until another has done more, so that nobody sees a task fall back.
SO_FAR: sa.BindParameter[int] = sa.bindparam("so_far")
ADVANCE = (
    steps.update()
    .where(IS_MINE)
    .values(
        progress=sa.case((steps.c.progress < SO_FAR, SO_FAR), else_=steps.c.progress), phase=sa.bindparam("in_phase")
    )
)
RENEW = ADVANCE.values(lease_until=now() + LEASE)
HELD: sa.BindParameter[list[tuple[str, int]]] = sa.bindparam("held", expanding=True)
# In the order of their ids, as whoever cancels several steps locks them too.
LOCK_HELD = (
    sa.select(steps.c.step_id)
    .where(sa.tuple_(steps.c.step_id, steps.c.attempt).in_(HELD), steps.c.status == Status.STARTED)
    .order_by(steps.c.step_id)
    .with_for_update()
)
LOCK_STEPS = (
    sa.select(steps.c.step_id)
    .where(steps.c.task_id == sa.bindparam("task_id"))
    .order_by(steps.c.step_id)
    .with_for_update()
)
RENEW_ALL = (
    steps.update()
    .where(sa.tuple_(steps.c.step_id, steps.c.attempt).in_(HELD), steps.c.status == Status.STARTED)
    .values(lease_until=now() + LEASE)
    .returning(steps.c.step_id, steps.c.attempt)
)
END_ATTEMPT = attempts.update().where(attempts.c.step_id == STEP, attempts.c.attempt == ATTEMPT)
RELEASE_DEPENDANTS = (
    steps.update()
    .where(steps.c.step_id.in_(sa.select(needs.c.step_id).where(needs.c.needed_id == STEP)))
    .values(waits_for=steps.c.waits_for - 1, ready_at=now())  # its turn stays
    .returning(steps.c.step_id, steps.c.queue, steps.c.waits_for)
)
NEEDED_STEPS = (
    sa.select(steps)
    .join(needs, needs.c.needed_id == steps.c.step_id)
    .where(needs.c.step_id == STEP)
    .order_by(steps.c.position)
)
NEEDS = (
    sa.select(needs)
    .join(steps, steps.c.step_id == needs.c.needed_id)
    .where(steps.c.task_id == sa.bindparam("task_id"))
    .order_by(steps.c.position)
)
NAMED_STEPS = sa.select(steps.c.step_id, steps.c.name, steps.c.status).where(steps.c.task_id == sa.bindparam("task_id"))
FAILED_STEPS = (
    sa.select(steps.c.name, steps.c.error_code, steps.c.error_message)
    .where(steps.c.task_id == sa.bindparam("task_id"), steps.c.status == Status.FAILED)
    .order_by(steps.c.essential.desc(), steps.c.position)
)
# Subqueries, not joins: by its statistics PostgreSQL may choose to read all steps for a join.
RESULT_STEP = sa.select(tasks.c.result_step).where(tasks.c.task_id == sa.bindparam("task_id"))
RECEIPT = sa.select(steps.c.receipt).where(steps.c.step_id == RESULT_STEP.scalar_subquery())
INPUTS = sa.select(inputs).where(inputs.c.task_id == sa.bindparam("task_id"))
ARTIFACTS = sa.select(artifacts).where(artifacts.c.step_id.in_(sa.bindparam("step_ids", expanding=True)))
RESULT = sa.select(artifacts).where(
    artifacts.c.step_id == RESULT_STEP.where(tasks.c.status == Status.FINISHED).scalar_subquery()
)
CHECKPOINTS = sa.select(steps.c.checkpoint).where(
    steps.c.task_id == sa.bindparam("task_id"), steps.c.checkpoint.is_not(sa.null())
)
LOST_ATTEMPTS = (
    sa.select(sa.func.count()).select_from(attempts).where(attempts.c.step_id == STEP, attempts.c.outcome == "lost")
)
WAITING_STEPS = (
    sa.select(steps.c.queue, sa.func.count().label("waiting"))
    .where(steps.c.status == Status.QUEUED, steps.c.waits_for == 0)
    .group_by(steps.c.queue)
)
OPEN_STEPS = (
    sa.select(sa.func.count())
    .select_from(steps)
    .where(steps.c.task_id == sa.bindparam("task_id"), steps.c.status.in_([Status.QUEUED, Status.STARTED]))
)
