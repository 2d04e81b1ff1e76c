"""The only code that changes state. Each move is one transaction that locks the task's row first, so that two
moves of one task never cross, and whatever must happen with a move (event, counter) happens inside it."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from core import counters, deliveries, durations, quotas, statements
from core.counters import Count, Duration
from core.database import BOUNDS_LOCK, migrate, one_at_a_time, writing
from core.deliveries import Deliveries
from core.endpoints import CallbackEvent, Endpoints
from core.errors import TaskExists
from core.keys import Keys
from core.reader import ALIVE_SECONDS, Reader, step_from, task_from, task_made_with
from core.tables import attempts, idempotency_keys, keepers, needs, now, steps, tasks, workers
from core.task import (
    Bounds,
    Claim,
    ErrorInfo,
    HeldLease,
    IdempotencyKey,
    NewStep,
    NewTask,
    Quota,
    ReadyStep,
    Status,
    Task,
    Worker,
    new_id,
    sources,
)

# Seconds a step rests after its first, second, … lost attempt; statements.MAX_BACKOFF_SECONDS is beyond them all.
RETRY_PAUSES = (1.0, 5.0, 30.0)
WORKER_FORGOTTEN_SECONDS = 24 * 3600.0
KEY_SECONDS = 24 * 3600.0
TOLD_PERCENT = 10  # a task.progress callback for each

EXHAUSTED = ErrorInfo("attempts_exhausted", "every attempt died before it could finish")


class Ledger(Reader):
    def __init__(self, database_url: str) -> None:
        super().__init__(database_url)
        self.keys = Keys(self.database)
        self.endpoints, self.deliveries = Endpoints(self.database), Deliveries(self.database)

    def migrate(self) -> None:
        """Bring the tables up to date; every process does so when it starts."""
        migrate(self.database)

    # --- a task begins ---

    def create(
        self,
        task: NewTask,
        key: IdempotencyKey | None = None,
        bounds: Bounds | None = None,
        quota: Quota | None = None,
    ) -> list[ReadyStep]:
        """Record the task and its steps. Returns the steps that may start at once.

        Raises TaskExists if `key` made a task before, IdempotencyMismatch if that was another request,
        QuotaExceeded if its owner has used up `quota`, and QueueFull if one more would be over `bounds`.
        """
        with writing(self.database) as tx:
            values = {name: value for name, value in vars(task).items() if name not in ("steps", "callback")}
            values["callback_url"] = task.callback and task.callback.url
            values["callback_events"] = task.callback.events if task.callback else []
            tx.execute(statements.INSERT_TASK, values)
            if key:
                self._use_key(tx, key, task.task_id)
            quotas.add_stored_bytes(tx, task.owner, task.stored_bytes)
            if quota:
                quotas.check(tx, task.owner, quota)
            if bounds:
                one_at_a_time(tx, BOUNDS_LOCK)
                quotas.check_bounds(tx, {step.queue for step in task.steps if not step.needs}, bounds)
            ready = self._add_steps(tx, task.task_id, task.steps, [])
            tx.execute(statements.INSERT_EVENT, {"task_id": task.task_id, "kind": Status.QUEUED})
            counters.count(tx, Count("tasks_created", task.engine))
        return ready

    def _add_steps(
        self, tx: sa.Connection, task_id: str, new: Sequence[NewStep], earlier: list[str]
    ) -> list[ReadyStep]:
        """Record steps behind the task's `earlier` ones (their ids by position). Returns those that may start."""
        ids = earlier + [new_id() for _ in new]
        done = set(tx.execute(statements.FINISHED_STEPS, {"task_id": task_id}).scalars()) if earlier else set()
        rows, edges, ready = [], [], []
        for position, step in enumerate(new, start=len(earlier)):
            waits_for = [ids[needed] for needed in step.needs if ids[needed] not in done]
            edges += [{"step_id": ids[position], "needed_id": ids[needed]} for needed in step.needs]
            rows.append(
                {
                    "step_id": ids[position],
                    "task_id": task_id,
                    "position": position,
                    "kind": step.kind,
                    "queue": step.queue,
                    "params": step.params,
                    "waits_for": len(waits_for),
                    "size": step.size,
                    "work": step.work,
                }
            )
            if not waits_for:
                ready.append(ReadyStep(ids[position], step.queue))
        tx.execute(statements.INSERT_STEP, rows)
        if edges:
            tx.execute(needs.insert(), edges)
        return ready

    def _use_key(self, tx: sa.Connection, key: IdempotencyKey, task_id: str) -> None:
        """Whoever writes the key's row first makes the task; the others wait for that, find it, and undo theirs."""
        values = vars(key) | {"task_id": task_id, "created_at": now()}
        insert = postgresql.insert if tx.dialect.name == "postgresql" else sqlite.insert
        tx.execute(insert(idempotency_keys).values(values).on_conflict_do_nothing())
        if (made := task_made_with(tx, key)) and made != task_id:
            raise TaskExists(made)

    def forget_old_keys(self) -> None:
        """Drop idempotency keys older than a day."""
        with writing(self.database) as tx:
            old = idempotency_keys.c.created_at < now() - KEY_SECONDS
            tx.execute(idempotency_keys.delete().where(old))

    # --- an attempt runs ---

    def claim(self, step_id: str, worker_id: str, lease_seconds: float) -> Claim | None:
        """Take the step, at a new attempt number. None: it is not there to be taken, do nothing."""
        with writing(self.database) as tx:
            task = self._lock_task_of(tx, step_id)
            if task is None or task.status.is_final:
                return None
            row = tx.execute(
                statements.CLAIM, {"of_step": step_id, "by_worker": worker_id, "lease_seconds": lease_seconds}
            ).one_or_none()
            if row is None:
                return None
            begun = {"step_id": step_id, "attempt": row.attempt, "worker_id": worker_id, "started_at": row.started_at}
            tx.execute(statements.INSERT_ATTEMPT, begun)
            waited = max(0.0, row.started_at - row.not_before)
            if task.status == Status.QUEUED:
                task = self._move_task(tx, task, Status.STARTED, started_at=row.started_at)
                counters.count(tx, Duration("task_waiting_seconds", task.engine, waited))
            tells_progress = bool(deliveries.wanted(tx, task, CallbackEvent.PROGRESS))
            needed = tx.execute(statements.NEEDED_STEPS, {"of_step": step_id}) if row.position else ()
            done = tuple(step_from(needed_row) for needed_row in needed)
            return Claim(step_from(row), task, row.started_at, waited, tells_progress, done)

    def renew(self, claim: Claim, lease_seconds: float, progress: int, phase: str | None) -> bool:
        """Say that the attempt lives, and how far it is. False: canceled or taken over, the attempt must end."""
        task_id, renewal = claim.task.task_id, {"lease_seconds": lease_seconds, "progress": progress, "phase": phase}
        with writing(self.database) as tx:
            before = deliveries.progress_of(tx, task_id) if claim.tells_progress else 0
            if not tx.execute(statements.RENEW, _mine(claim) | renewal).rowcount:
                return False
            if claim.tells_progress and deliveries.progress_of(tx, task_id) // TOLD_PERCENT > before // TOLD_PERCENT:
                deliveries.write(tx, self._task(tx, task_id), CallbackEvent.PROGRESS)
            return True

    def finish(
        self,
        claim: Claim,
        artifacts: dict[str, str],
        receipt: dict[str, Any],
        phases: dict[str, float],
        warnings: Sequence[str] = (),
        more: Sequence[NewStep] = (),
        stored_bytes: int = 0,
        render_seconds: float | None = None,
        waited_seconds: float = 0.0,
    ) -> list[ReadyStep] | None:
        """Record what the attempt made (name → storage key) and its size, the seconds of each phase, what a user
        should know, and the steps that turned out to be needed; their `needs` count from the task's first step.
        `render_seconds` are those until its worker's engine was free again, None: all; then it `waited_seconds` for
        another step.

        Returns the steps that became ready, or None if the attempt was no longer the newest:
        then nothing was written.
        """
        with writing(self.database) as tx:
            task = self._lock_task_of(tx, claim.step.step_id)
            if task is None or not self._end_step(
                tx, claim, Status.FINISHED, "finished", progress=100, artifacts=artifacts, receipt=receipt
            ):
                return None
            seconds = self._now(tx) - claim.started_at - waited_seconds
            durations.record_duration(tx, durations.profile_of(claim.step, task.engine), seconds, render_seconds)
            counters.count(
                tx, *(Duration(f"phase_seconds:{name}", task.engine, seconds) for name, seconds in phases.items())
            )
            if stored_bytes:
                its = tasks.c.task_id == task.task_id
                tx.execute(tasks.update().where(its).values(stored_bytes=tasks.c.stored_bytes + stored_bytes))
                quotas.add_stored_bytes(tx, task.owner, stored_bytes)
            ready = self._release_dependants(tx, claim.step.step_id)
            if more:
                earlier = list(tx.execute(statements.STEP_IDS, {"task_id": task.task_id}).scalars())
                ready += self._add_steps(tx, task.task_id, more, earlier)
            said = [*task.warnings, *warnings]
            if warnings:
                tx.execute(tasks.update().where(tasks.c.task_id == task.task_id).values(warnings=said))
            if tx.execute(statements.OPEN_STEPS, {"task_id": task.task_id}).scalar_one() == 0:
                self._end_task(tx, task, Status.FINISHED, artifacts=artifacts, receipt=receipt, warnings=said)
            return ready

    def fail(self, claim: Claim, error: ErrorInfo) -> bool:
        """End the step and its task with `error`. False if the attempt was no longer the newest."""
        with writing(self.database) as tx:
            task = self._lock_task_of(tx, claim.step.step_id)
            if task is None or not self._end_step(tx, claim, Status.FAILED, "failed", error=error):
                return False
            self._fail_task(tx, task, error)
            return True

    def lose(self, claim: Claim, error: ErrorInfo, max_attempts: int) -> bool:
        """This attempt cannot go on but another may: as if its lease had run out, at once and with the reason."""
        with writing(self.database) as tx:
            task = self._lock_task_of(tx, claim.step.step_id)
            return task is not None and self._end_lost_attempt(tx, claim, max_attempts, error)

    def give_back(self, claim: Claim) -> bool:
        """Queue the step again at once, without using up an attempt."""
        with writing(self.database) as tx:
            self._lock_task_of(tx, claim.step.step_id)
            return self._end_step(tx, claim, Status.QUEUED, "given_back")

    # --- from outside ---

    def cancel(self, task_id: str, owner: str | None = None) -> Task:
        """The task is canceled from now on, unless it had ended before. Raises TaskNotFound."""
        self.task(task_id, owner)
        with writing(self.database) as tx:
            task = self._lock_task(tx, task_id)
            if task and not task.status.is_final:
                self._close_steps(tx, task_id, Status.CANCELED)
                self._end_task(tx, task, Status.CANCELED)
        return self.task(task_id)

    def take_over(self, lease: HeldLease, max_attempts: int) -> bool:
        """Take the step from a worker that is believed dead: from this very lease, not from a renewed one.

        It is queued again after a growing pause, or fails its task when `max_attempts` were lost.
        """
        unchanged = sa.and_(
            steps.c.step_id == lease.step_id,
            steps.c.status == Status.STARTED,
            steps.c.attempt == lease.attempt,
            steps.c.lease_until == lease.lease_until,
        )
        with writing(self.database) as tx:
            task = self._lock_task_of(tx, lease.step_id)
            row = tx.execute(sa.select(steps).where(unchanged).with_for_update()).one_or_none()
            if task is None or row is None:
                return False
            return self._end_lost_attempt(tx, Claim(step_from(row), task, row.started_at, 0.0), max_attempts, None)

    def _end_lost_attempt(self, tx: sa.Connection, claim: Claim, max_attempts: int, error: ErrorInfo | None) -> bool:
        """Queue the step for another attempt after a growing pause; without one left, its task fails."""
        step_id = claim.step.step_id
        lost_before = tx.execute(statements.LOST_ATTEMPTS, {"of_step": step_id}).scalar_one()
        if lost_before + 1 < max_attempts:
            pause = RETRY_PAUSES[min(lost_before, len(RETRY_PAUSES) - 1)]
            return self._end_step(tx, claim, Status.QUEUED, "lost", error=error, not_before=now() + pause)
        error = ErrorInfo(EXHAUSTED.code, f"{EXHAUSTED.message}; the last: {error.message}") if error else EXHAUSTED
        ended = self._end_step(tx, claim, Status.FAILED, "lost", error=error)
        if ended:
            self._fail_task(tx, claim.task, error)
        return ended

    def mark_expired(self, task_id: str) -> None:
        """What the task stored is deleted. Nothing changes if that was said before, or the task has not ended."""
        its = sa.and_(tasks.c.task_id == task_id, tasks.c.finished_at.is_not(None), tasks.c.expired_at.is_(None))
        with writing(self.database) as tx:
            freed = tasks.update().where(its).values(expired_at=now()).returning(tasks.c.owner, tasks.c.stored_bytes)
            for owner, stored_bytes in tx.execute(freed):
                quotas.add_stored_bytes(tx, owner, -stored_bytes)

    def mark_deleted(self, task_id: str) -> None:
        """Its owner deleted it: what it stored is deleted, and it stands in no list any more."""
        self.mark_expired(task_id)
        its = sa.and_(tasks.c.task_id == task_id, tasks.c.deleted_at.is_(None))
        with writing(self.database) as tx:
            tx.execute(tasks.update().where(its).values(deleted_at=now()))

    # --- workers ---

    def report_worker(self, worker: Worker) -> None:
        """Record that this worker lives and what it holds."""
        values = {
            name: getattr(worker, name)
            for name in Worker.__dataclass_fields__
            if name not in ("seen_at", "started_at", "alive")
        }
        with writing(self.database) as tx:
            mine = workers.c.worker_id == worker.worker_id
            if not tx.execute(workers.update().where(mine).values(**values, seen_at=now())).rowcount:
                tx.execute(workers.insert().values(**values, started_at=now(), seen_at=now()))

    def sign_off_worker(self, worker_id: str) -> None:
        """It left in order. Its row stays for a day, as the proof of what machines are there (`ENGINE=auto`)."""
        with writing(self.database) as tx:
            gone = now() - ALIVE_SECONDS
            tx.execute(workers.update().where(workers.c.worker_id == worker_id).values(seen_at=gone, step_id=None))

    def report_keeper(self, keeper_id: str) -> None:
        """Record that this keeper lives."""
        with writing(self.database) as tx:
            mine = keepers.c.keeper_id == keeper_id
            if not tx.execute(keepers.update().where(mine).values(seen_at=now())).rowcount:
                tx.execute(keepers.insert().values(keeper_id=keeper_id, seen_at=now()))

    def forget_old_workers(self) -> None:
        """Drop the workers and keepers not heard of for a day."""
        with writing(self.database) as tx:
            for table in (workers, keepers):
                tx.execute(table.delete().where(table.c.seen_at < now() - WORKER_FORGOTTEN_SECONDS))

    def delete_rare_durations(self) -> None:
        """Keep the list of measured sizes short."""
        with writing(self.database) as tx:
            durations.delete_rare(tx)

    # --- parts of moves; each runs inside the caller's transaction ---

    def _lock_task(self, tx: sa.Connection, task_id: str) -> Task | None:
        row = tx.execute(statements.LOCK_TASK, {"task_id": task_id}).one_or_none()
        return task_from(row) if row else None

    def _lock_task_of(self, tx: sa.Connection, step_id: str) -> Task | None:
        row = tx.execute(statements.LOCK_TASK_OF, {"of_step": step_id}).one_or_none()
        return task_from(row) if row else None

    def _end_step(
        self,
        tx: sa.Connection,
        claim: Claim,
        status: Status,
        outcome: str,
        error: ErrorInfo | None = None,
        **values: Any,
    ) -> bool:
        if status == Status.QUEUED:
            values = {"not_before": now(), "progress": 0, "phase": None} | values  # it keeps its place in the queue
        else:
            values |= {"finished_at": now()}
        update = steps.update().where(statements.IS_MINE)
        ended_step = update.values(status=status, lease_until=None, worker_id=None, **values)
        if not tx.execute(ended_step, _mine(claim)).rowcount:
            return False
        ended = {"outcome": outcome, "error_code": error and error.code, "error_message": error and error.message}
        tx.execute(statements.END_ATTEMPT.values(ended_at=now(), **ended), _mine(claim))
        return True

    def _release_dependants(self, tx: sa.Connection, step_id: str) -> list[ReadyStep]:
        released = tx.execute(statements.RELEASE_DEPENDANTS, {"of_step": step_id})
        return [ReadyStep(row.step_id, row.queue) for row in released if row.waits_for == 0]

    def _fail_task(self, tx: sa.Connection, task: Task, error: ErrorInfo) -> None:
        # One failed step ends the task: what else of it waits or runs is of no use any more.
        self._close_steps(tx, task.task_id, Status.CANCELED)
        self._end_task(tx, task, Status.FAILED, error_code=error.code, error_message=error.message)

    def _close_steps(self, tx: sa.Connection, task_id: str, status: Status) -> None:
        still_open = sa.and_(steps.c.task_id == task_id, steps.c.status.in_(sources(status)))
        running = sa.select(steps.c.step_id).where(still_open, steps.c.status == Status.STARTED)
        tx.execute(
            attempts.update()
            .where(attempts.c.step_id.in_(running), attempts.c.ended_at.is_(None))
            .values(ended_at=now(), outcome=str(status))
        )
        tx.execute(steps.update().where(still_open).values(status=status, lease_until=None, finished_at=now()))

    def _end_task(self, tx: sa.Connection, task: Task, status: Status, **values: Any) -> None:
        observed: list[Count | Duration] = [Count(f"tasks_{status}", task.engine)]
        if task.started_at is not None and status == Status.FINISHED:  # others say nothing of how long it takes
            ran = self._now(tx) - task.started_at
            observed.append(Duration("task_running_seconds", task.engine, ran))
        counters.count(tx, *observed)
        # Last, so that the moment it writes down is the moment at which others can see the end.
        self._move_task(tx, task, status, finished_at=now(), **values)

    def _now(self, tx: sa.Connection) -> float:
        return float(tx.execute(statements.NOW).scalar_one())

    def _move_task(self, tx: sa.Connection, task: Task, status: Status, **values: Any) -> Task:
        """The caller holds the task's row, so nobody moved it since it was read."""
        if task.status not in sources(status):
            raise AssertionError(f"{task.status} → {status} is no move")  # a fault of ours: the transaction ends here
        tx.execute(statements.INSERT_EVENT, {"task_id": task.task_id, "kind": status})
        update = tasks.update().where(tasks.c.task_id == task.task_id).values(status=status, **values)
        moved = task_from(tx.execute(update.returning(tasks)).one())
        deliveries.write(tx, moved, CallbackEvent(f"task.{status}"))
        return moved


def _mine(claim: Claim) -> dict[str, Any]:
    """The fence's parameters: IS_MINE is true only while this attempt is the newest and nobody ended it."""
    return {"of_step": claim.step.step_id, "of_attempt": claim.step.attempt}
