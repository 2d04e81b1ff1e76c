"""What can be read from the ledger. Nothing here changes anything; the moves are in core/ledger/moves.py."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import sqlalchemy as sa

from core.db.database import check_reader, connect, reading
from core.db.tables import artifacts, attempts, idempotency_keys, needs, now, steps, tasks, workers
from core.errors import IdempotencyMismatch, TaskNotFound
from core.ids import is_id
from core.ledger import quotas, retention
from core.ledger.counters import Histogram, read_counters, read_histograms
from core.ledger.durations import StepDurations, StepProfile
from core.ledger.queue_order import DUE, NEXT, READY, parameters_of_next, turn_of
from core.ledger.retention import SurplusTask
from core.ledger.snapshots import Snapshot, read_snapshots
from core.ledger.statements import ARTIFACTS, INPUTS, NEEDS, RESULT
from core.ledger.workers import WorkerReports
from core.plan.steps import uses_all_cores
from core.status import Status
from core.task import (
    Artifact,
    Bounds,
    Claim,
    ErrorInfo,
    HeldLease,
    IdempotencyKey,
    Input,
    MadeStep,
    Quota,
    ReadyStep,
    Rest,
    Step,
    Task,
)

Value = TypeVar("Value")

SET_BACK_SECONDS = 5.0  # a step that became ready so long from now did so before its clock was set back
MADE_BEFORE = 3  # so many are tried, if the first one is damaged
WOKEN_AT_ONCE = 500  # of each queue; more would hold up the keeper's other duties

TASK = sa.select(tasks).where(tasks.c.task_id == sa.bindparam("task_id"))
STEPS = sa.select(steps).where(steps.c.task_id == sa.bindparam("task_id")).order_by(steps.c.position)
PROFILE = (sa.func.coalesce(steps.c.engine, ""), steps.c.kind, steps.c.size, steps.c.work)
OPEN = (
    sa.select(
        *(steps.c.step_id, steps.c.task_id, steps.c.position, steps.c.queue),
        (turn_of(tasks.c.claimed_at, tasks.c.created_at) - now()).label("turn"),
        *(steps.c.rest_seconds, steps.c.status, steps.c.worker_id, (now() - steps.c.started_at).label("ran"), *PROFILE),
    )
    .join(tasks, tasks.c.task_id == steps.c.task_id)
    .where(steps.c.status.in_([Status.QUEUED, Status.STARTED]))
    .order_by(steps.c.started_at)
)
NEEDED = sa.alias(steps)
OPEN_NEEDS = (
    sa.select(needs.c.step_id, needs.c.needed_id)
    .join(steps, steps.c.step_id == needs.c.step_id)
    .join(NEEDED, NEEDED.c.step_id == needs.c.needed_id)
    .where(steps.c.status == Status.QUEUED, NEEDED.c.status.in_([Status.QUEUED, Status.STARTED]))
)


class OpenStep(NamedTuple):
    """A step that waits or runs, with what decides when it is served and done. Times are seconds from now."""

    step_id: str
    task_id: str
    turn: float
    """Of its task: when a step of it was claimed last, or it was created; the lowest is served first."""
    position: int
    queue: str
    profile: StepProfile
    needs: tuple[str, ...]
    """The ids of those of its needs that are open too."""
    rests: float
    worker_id: str | None
    """By whom it is being done; None: it waits."""
    ran: float
    """For how long it is being done."""

    @property
    def uses_all_cores(self) -> bool:
        """Return whether its worker does no other such step beside it."""
        return self.queue != "net" and uses_all_cores(self.profile.kind)


def task_from(row: sa.Row[Any]) -> Task:
    fields = {name: getattr(row, name) for name in Task.__dataclass_fields__ if name not in ("error", "status")}
    return Task(**fields, status=Status(row.status), error=error_from(row))


def step_from(row: sa.Row[Any]) -> Step:
    fields = {name: getattr(row, name) for name in Step.__dataclass_fields__ if name not in ("error", "status")}
    return Step(**fields, status=Status(row.status), error=error_from(row))


def made_steps(connection: sa.Connection, done: Sequence[Step]) -> tuple[MadeStep, ...]:
    """Return finished steps with what they made."""
    if not done:
        return ()
    found: dict[str, dict[str, Artifact]] = {step.step_id: {} for step in done}
    for row in connection.execute(ARTIFACTS, {"step_ids": list(found)}):
        found[row.step_id][row.name] = artifact_from(row)
    return tuple(MadeStep(step, found[step.step_id]) for step in done)


def artifact_from(row: sa.Row[Any]) -> Artifact:
    return Artifact(row.name, row.key, row.bytes, row.sha256)


def read_inputs(connection: sa.Connection, task_id: str) -> dict[str, Input]:
    """Return what the task is made from, by role."""
    rows = connection.execute(INPUTS, {"task_id": task_id})
    return {row.role: Input(row.role, row.key, row.sha256, row.media_type) for row in rows}


def error_from(row: sa.Row[Any]) -> ErrorInfo | None:
    return ErrorInfo(row.error_code, row.error_message) if row.error_code else None


def page_of_tasks(
    owner: str | None, status: Status | None, after: str | None, limit: int, oldest_first: bool = False
) -> sa.Select[Any]:
    order = tasks.c.task_id if oldest_first else tasks.c.task_id.desc()
    query = sa.select(tasks).where(tasks.c.deleted_at.is_(None)).order_by(order).limit(limit)
    if owner is not None:
        query = query.where(tasks.c.owner == owner)
    if status:
        query = query.where(tasks.c.status == status)
    if after:
        query = query.where(tasks.c.task_id > after if oldest_first else tasks.c.task_id < after)
    return query


def task_made_with(tx: sa.Connection, key: IdempotencyKey) -> str | None:
    mine = sa.and_(idempotency_keys.c.owner == key.owner, idempotency_keys.c.key == key.key)
    row = tx.execute(sa.select(idempotency_keys).where(mine)).one_or_none()
    if row and row.fingerprint != key.fingerprint:
        message = "this Idempotency-Key was used with another request; use a new one for a new request"
        raise IdempotencyMismatch(message, param="Idempotency-Key")
    return str(row.task_id) if row else None


def batched(values: Iterable[Value], size: int) -> Iterator[Sequence[Value]]:
    left = iter(values)
    while batch := list(islice(left, size)):
        yield batch


class Reader(WorkerReports):
    """Where `owner` is given, only that key's tasks are there; None sees all."""

    def __init__(self, database_url: str) -> None:
        self.database = connect(database_url)

    def close(self) -> None:
        self.database.dispose()

    def ping(self) -> None:
        """Raises LedgerUnavailable."""
        with reading(self.database) as connection:
            connection.execute(sa.select(sa.func.count()).select_from(workers))

    def check_version(self) -> None:
        """Raises LedgerTooNew if a newer version of Kinora has changed the ledger so that this one must not read it."""
        with reading(self.database) as connection:
            check_reader(connection)

    def task(self, task_id: str, owner: str | None = None) -> Task:
        """Raises TaskNotFound."""
        with reading(self.database) as connection:
            return self._task(connection, task_id, owner)

    def task_with_steps(self, task_id: str, owner: str | None = None) -> tuple[Task, list[Step]]:
        """The task and its steps in order. Raises TaskNotFound."""
        with reading(self.database) as connection:
            task = self._task(connection, task_id, owner)
            return task, [step_from(row) for row in connection.execute(STEPS, {"task_id": task_id})]

    def made_before(self, owner: str, content_key: str) -> list[MadeStep]:
        """Return the newest steps of the owner's tasks that have finished with this content key and whose artifacts are
        there, or were when their task was last looked at."""
        there = sa.and_(tasks.c.owner == owner, tasks.c.expired_at.is_(None), tasks.c.deleted_at.is_(None))
        query = (
            sa.select(steps)
            .join(tasks, tasks.c.task_id == steps.c.task_id)
            .where(steps.c.content_key == content_key, steps.c.status == Status.FINISHED, there)
            .where(sa.exists().where(artifacts.c.step_id == steps.c.step_id))
            .order_by(steps.c.finished_at.desc())
            .limit(MADE_BEFORE)
        )
        with reading(self.database) as connection:
            return list(made_steps(connection, [step_from(row) for row in connection.execute(query)]))

    def needs(self, task_id: str) -> dict[str, list[str]]:
        """Return the ids of the steps that each of the task's steps needs, in order, by its own id."""
        needed: dict[str, list[str]] = {}
        with reading(self.database) as connection:
            for row in connection.execute(NEEDS, {"task_id": task_id}):
                needed.setdefault(row.step_id, []).append(row.needed_id)
        return needed

    def inputs(self, task_id: str) -> dict[str, Input]:
        """Return what the task is made from, by role."""
        with reading(self.database) as connection:
            return read_inputs(connection, task_id)

    def artifacts(self, task_id: str) -> dict[str, Artifact]:
        """Return what the result step of a finished task made, by name; nothing of any other task."""
        with reading(self.database) as connection:
            return {row.name: artifact_from(row) for row in connection.execute(RESULT, {"task_id": task_id})}

    def snapshots(self, task_ids: Sequence[str]) -> dict[str, Snapshot]:
        """Of those tasks that there are, all in one query."""
        with reading(self.database) as connection:
            return read_snapshots(connection, task_ids)

    def task_made_with(self, key: IdempotencyKey) -> str | None:
        """The id of the task that the key made. Raises IdempotencyMismatch if that was another request."""
        with reading(self.database) as connection:
            return task_made_with(connection, key)

    def check_room(self, owner: str, queue: str, bounds: Bounds, quota: Quota) -> None:
        """Raises QuotaExceeded or QueueFull if there is no room for a task of one step now. That there is promises
        nothing: `create` judges."""
        with reading(self.database) as connection:
            quotas.check(connection, owner, quota, more=1)
            quotas.check_bounds(connection, {queue}, bounds)

    def _task(self, connection: sa.Connection, task_id: str, owner: str | None = None) -> Task:
        row = is_id(task_id) and connection.execute(TASK, {"task_id": task_id}).one_or_none()
        if not row or owner not in (None, row.owner):  # another's task is told from none by nothing
            raise TaskNotFound(f"there is no task {task_id!r}", param="task_id")
        return task_from(row)

    def tasks(
        self,
        *,
        owner: str | None = None,
        status: Status | None = None,
        after: str | None = None,
        limit: int,
        oldest_first: bool = False,
    ) -> list[Task]:
        """Those beyond the task `after`, newest first unless `oldest_first`, without the deleted. Costs the same
        however many tasks there are."""
        query = page_of_tasks(owner, status, after, limit, oldest_first)
        with reading(self.database) as connection:
            return [task_from(row) for row in connection.execute(query)]

    def steps_of(self, task_ids: Collection[str]) -> dict[str, list[Step]]:
        """The steps of each of the tasks, in order."""
        query = sa.select(steps).where(steps.c.task_id.in_(task_ids)).order_by(steps.c.position)
        found: dict[str, list[Step]] = {task_id: [] for task_id in task_ids}
        with reading(self.database) as connection:
            for row in connection.execute(query):
                found[row.task_id].append(step_from(row))
        return found

    def open_steps(self) -> list[OpenStep]:
        """Return every step that waits or runs; of those that run, the one that began first is the first."""
        with reading(self.database) as connection:
            needed: dict[str, list[str]] = {}
            for step_id, needed_id in connection.execute(OPEN_NEEDS):
                needed.setdefault(step_id, []).append(needed_id)
            rows = connection.execute(OPEN).all()
            there = {row.step_id for row in rows}  # one may have ended since its needs were read
            return [
                OpenStep(
                    *(row.step_id, row.task_id, row.turn, row.position, row.queue, StepProfile(*row[-4:])),
                    *(tuple(need for need in needed.get(row.step_id, ()) if need in there), row.rest_seconds),
                    *((row.worker_id, max(0.0, row.ran)) if row.status == Status.STARTED else (None, 0.0)),
                )
                for row in rows
            ]

    def step_durations(self) -> StepDurations:
        """How long steps take here."""
        with reading(self.database) as connection:
            return StepDurations(connection)

    def peek_next(
        self,
        queue: str,
        loaded: Collection[str] = (),
        defer_seconds: float = 0.0,
        kinds: Collection[str] | None = None,
    ) -> tuple[Step, Task] | None:
        """Return the step that `claim_next` would take now, and its task."""
        with reading(self.database) as connection:
            found = connection.execute(NEXT, parameters_of_next(queue, loaded, defer_seconds, kinds)).one_or_none()
            its = found and connection.execute(sa.select(steps).where(steps.c.step_id == found.step_id)).one_or_none()
            return (step_from(its), task_from(found)) if found and its else None

    def waiting(self) -> dict[str, tuple[int, float]]:
        """For each queue with ready steps: how many wait, and for how many seconds the oldest has."""
        query = (
            sa.select(steps.c.queue, sa.func.count(), now() - sa.func.min(steps.c.ready_at))
            .where(READY)
            .group_by(steps.c.queue)
        )
        with reading(self.database) as connection:
            return {queue: (count, max(0.0, oldest)) for queue, count, oldest in connection.execute(query)}

    def steps_to_wake(self, older_than: float) -> list[ReadyStep]:
        """Return each step that has been ready to run for `older_than` seconds, or has rested after a lost attempt."""
        clock_was_set_back = steps.c.ready_at > now() + SET_BACK_SECONDS
        old = sa.or_(steps.c.ready_at <= now() - older_than, steps.c.attempt > 0, clock_was_set_back)
        query = sa.select(steps.c.step_id, steps.c.queue).where(READY, DUE, old).order_by(steps.c.ready_at)
        found = []
        with reading(self.database) as connection:
            for queue in connection.execute(sa.select(steps.c.queue).where(READY).distinct()).scalars().all():
                rows = connection.execute(query.where(steps.c.queue == queue).limit(WOKEN_AT_ONCE))
                found += [ReadyStep(row.step_id, row.queue) for row in rows]
        return found

    def rests(self) -> list[Rest]:
        """Return the rest of each step that rests before its next attempt."""
        columns = (steps.c.step_id, steps.c.attempt, steps.c.rest_seconds, (now() - steps.c.rested_at).label("since"))
        query = sa.select(*columns).where(READY, steps.c.rest_seconds > 0)
        with reading(self.database) as connection:
            return [
                Rest(row.step_id, row.attempt, row.rest_seconds, row.since or 0.0) for row in connection.execute(query)
            ]

    def held_leases(self) -> list[HeldLease]:
        """Of every attempt that runs."""
        overdue = (steps.c.lease_until < now()).label("overdue")
        query = sa.select(steps.c.step_id, steps.c.attempt, steps.c.lease_until, overdue)
        with reading(self.database) as connection:
            rows = connection.execute(query.where(steps.c.status == Status.STARTED))
            return [HeldLease(row.step_id, row.attempt, row.lease_until, bool(row.overdue)) for row in rows]

    def unknown(self, task_ids: Iterable[str]) -> set[str]:
        """Those of the ids that no task has."""
        unknown = set(task_ids)
        with reading(self.database) as connection:
            for batch in batched(sorted(unknown), 500):
                unknown -= set(
                    connection.execute(sa.select(tasks.c.task_id).where(tasks.c.task_id.in_(batch))).scalars()
                )
        return unknown

    def expired_tasks(self, result_ttl: float, limit: int = 100) -> list[str]:
        """Ended tasks whose bytes are due to be deleted, the oldest first."""
        due = sa.and_(tasks.c.expired_at.is_(None), tasks.c.finished_at < now() - result_ttl)
        query = sa.select(tasks.c.task_id).where(due).order_by(tasks.c.finished_at).limit(limit)
        with reading(self.database) as connection:
            return list(connection.execute(query).scalars())

    def old_tasks(self, task_ttl: float, limit: int) -> list[str]:
        """Ended tasks whose rows are due to be deleted: their files were so `task_ttl` seconds ago."""
        with reading(self.database) as connection:
            return retention.old_tasks(connection, task_ttl, limit)

    def surplus_tasks(self, most: int) -> list[SurplusTask]:
        """Ended tasks that are too many of their owner's, who may have `most`."""
        with reading(self.database) as connection:
            return retention.surplus_tasks(connection, most)

    def just_expired(self, seconds: float) -> list[str]:
        """Tasks that ended in the last `seconds`, and whose bytes are deleted already."""
        # It expires after it has ended; the first condition says no more, but the index begins with it.
        since = now() - seconds
        just = sa.and_(tasks.c.expired_at > since, tasks.c.finished_at > since)
        with reading(self.database) as connection:
            return list(connection.execute(sa.select(tasks.c.task_id).where(just)).scalars())

    def is_in_vain(self, claim: Claim) -> bool:
        """The attempt ended without finishing its step, and will not: nobody will ask for what it stored. False
        too if it did finish but was not told so."""
        query = sa.select(attempts.c.outcome).where(
            attempts.c.step_id == claim.step.step_id, attempts.c.attempt == claim.step.attempt
        )
        with reading(self.database) as connection:
            return connection.execute(query).scalar_one_or_none() not in (None, "finished")

    def counters(self) -> dict[tuple[str, str], int]:
        with reading(self.database) as connection:
            return read_counters(connection)

    def histograms(self) -> dict[tuple[str, str], Histogram]:
        with reading(self.database) as connection:
            return read_histograms(connection)
