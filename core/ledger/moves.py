"""The only code that changes state. Each move is one transaction that locks the task's row first, so that two
moves of one task never cross, and whatever must happen with a move (event, counter) happens inside it."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from core.callbacks import deliveries
from core.callbacks.deliveries import Deliveries
from core.callbacks.endpoints import CallbackEvent, Endpoints
from core.db.database import BOUNDS_LOCK, delete_in_batches, migrate, one_at_a_time, writing
from core.db.tables import attempts, idempotency_keys, needs, now, steps, tasks
from core.db.upsert import insert
from core.errors import TaskExists
from core.ids import new_id
from core.ledger import checkpoints, counters, durations, queue_order, quotas, retention, statements
from core.ledger.counters import Count, Duration
from core.ledger.keys import Keys
from core.ledger.reads import (
    Reader,
    made_steps,
    read_inputs,
    step_from,
    task_from,
    task_made_with,
)
from core.ledger.retries import pause_after
from core.status import Status, sources
from core.task import (
    Artifact,
    Bounds,
    Claim,
    ErrorInfo,
    FinishedStep,
    HeldLease,
    IdempotencyKey,
    NewStep,
    NewTask,
    Quota,
    ReadyStep,
    Rest,
    Task,
)

KEY_SECONDS = 24 * 3600.0
CLAIM_TRIES = 100  # each that fails is one in which another worker claimed the step
TOLD_PERCENT = 10  # a task.progress callback for each

EXHAUSTED = ErrorInfo("attempts_exhausted", "every attempt died before it could finish")


class Ledger(Reader):
    def __init__(self, database_url: str) -> None:
        super().__init__(database_url)
        self.keys = Keys(self.database)
        self.endpoints, self.deliveries = Endpoints(self.database), Deliveries(self.database)

    def migrate(self, may_make: bool = True) -> None:
        """Bring the tables up to date; every process does so when it starts. Raises LedgerUnavailable, and Unusable:
        this also if there are none and none may be made."""
        migrate(self.database, may_make)

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
            left_out = ("steps", "callback", "result_step", "inputs")
            values = {name: value for name, value in vars(task).items() if name not in left_out}
            values["callback_url"] = task.callback and task.callback.url
            values["callback_events"] = task.callback.events if task.callback else []
            tx.execute(statements.INSERT_TASK, values)
            if task.inputs:
                tx.execute(statements.INSERT_INPUT, [vars(each) | {"task_id": task.task_id} for each in task.inputs])
            if key:
                self._use_key(tx, key, task.task_id)
            quotas.add_stored_bytes(tx, task.owner, task.stored_bytes)
            if quota:
                quotas.check(tx, task.owner, quota)
            if bounds:
                one_at_a_time(tx, BOUNDS_LOCK)
                quotas.check_bounds(tx, queues_to_wait_in(task.steps), bounds)
            ready = self._add_steps(tx, task.task_id, task.steps, task.result_step)
            tx.execute(statements.INSERT_EVENT, {"task_id": task.task_id, "kind": Status.QUEUED})
            counters.count(tx, Count("tasks_created", task.engine))
            if all(step.finished for step in task.steps):  # nothing of it is left to do
                queued = task_from(tx.execute(statements.LOCK_TASK, {"task_id": task.task_id}).one())
                self._end_task_if_done(tx, self._move_task(tx, queued, Status.STARTED, started_at=now()))
        return ready

    def _add_steps(
        self, tx: sa.Connection, task_id: str, new: Sequence[NewStep], result_step: str | None
    ) -> list[ReadyStep]:
        """Record steps behind those that the task has. The one named `result_step`, or the last one if that is empty,
        makes the task's result; None: whichever did so far. Returns those that may start."""
        earlier = tx.execute(statements.NAMED_STEPS, {"task_id": task_id}).all()
        ids = {step.name: step.step_id for step in earlier}
        done = {step.step_id for step in earlier if step.status == Status.FINISHED}
        useless = {step.step_id for step in earlier if step.status in (Status.FAILED, Status.CANCELED)}
        rows, edges, ready = [], [], []
        for position, step in enumerate(new, start=len(earlier)):
            needed = [ids[name] for name in step.needs]
            name, step_id = step.name or str(position), new_id()
            if name in ids:
                raise ValueError(f"two steps of a task are called {name}")
            ids[name] = step_id
            edges += [{"step_id": step_id, "needed_id": each} for each in needed]
            row = {name: value for name, value in vars(step).items() if name not in ("needs", "finished")}
            weight = step.work + 1 if step.weight is None else step.weight
            own = {"step_id": step_id, "task_id": task_id, "position": position, "name": name, "weight": weight}
            own |= {"of_task": task_id}
            rows.append(row | own | {"waits_for": sum(each not in done for each in needed)})
            if step.finished:
                done.add(step_id)
            elif useless.intersection(needed):
                useless.add(step_id)
            elif not rows[-1]["waits_for"]:
                ready.append(ReadyStep(step_id, step.queue))
        tx.execute(statements.INSERT_STEP, rows)
        if edges:
            tx.execute(needs.insert(), edges)
        for row, step in zip(rows, new, strict=True):
            if step.finished:
                self._take_over_finished(tx, row["step_id"], step.finished)
        canceled = sa.and_(steps.c.task_id == task_id, steps.c.step_id.in_(useless), steps.c.status == Status.QUEUED)
        if useless:
            tx.execute(steps.update().where(canceled).values(status=Status.CANCELED, finished_at=now()))
        if result_step is not None:
            made_by = ids[result_step] if result_step else rows[-1]["step_id"]
            tx.execute(tasks.update().where(tasks.c.task_id == task_id).values(result_step=made_by))
        return ready

    def _take_over_finished(self, tx: sa.Connection, step_id: str, finished: FinishedStep) -> None:
        values = {"status": Status.FINISHED, "progress": 100, "finished_at": now(), "receipt": finished.receipt}
        tx.execute(steps.update().where(steps.c.step_id == step_id).values(values | {"reserved_weight": 0.0}))
        if finished.artifacts:
            made = [vars(each) | {"step_id": step_id} for each in finished.artifacts]
            tx.execute(statements.INSERT_ARTIFACT, made)

    def _use_key(self, tx: sa.Connection, key: IdempotencyKey, task_id: str) -> None:
        """Whoever writes the key's row first makes the task; the others wait for that, find it, and undo theirs."""
        values = vars(key) | {"task_id": task_id, "created_at": now()}
        tx.execute(insert(tx, idempotency_keys).values(values).on_conflict_do_nothing())
        if (made := task_made_with(tx, key)) and made != task_id:
            raise TaskExists(made)

    def forget_old_keys(self) -> None:
        """Drop idempotency keys older than a day."""
        old = idempotency_keys.c.created_at < now() - KEY_SECONDS
        delete_in_batches(self.database, idempotency_keys, old)

    # --- an attempt runs ---

    def claim(self, step_id: str, worker_id: str, lease_seconds: float) -> Claim | None:
        """Take this step, at a new attempt number. None: it is not there to be taken, do nothing."""
        with writing(self.database) as tx:
            return self._claim(tx, self._lock_task_of(tx, step_id), step_id, worker_id, lease_seconds)

    def claim_next(
        self,
        queue: str,
        worker_id: str,
        lease_seconds: float,
        loaded: Collection[str] = (),
        defer_seconds: float = 0.0,
        kinds: Collection[str] | None = None,
    ) -> Claim | None:
        """Take the step of `queue` whose turn it is, of those of these `kinds` if some are given; None if none waits. A
        step whose engine is not `loaded` gives way to others for up to `defer_seconds`."""
        asked = queue_order.parameters_of_next(queue, loaded, defer_seconds, kinds)
        is_alone = self.database.dialect.name == "sqlite"  # nobody else writes meanwhile
        for _ in range(CLAIM_TRIES):
            with writing(self.database) as tx:
                # If all that waits is of tasks that others are moving just now, the first of these is waited for.
                found = None if is_alone else tx.execute(queue_order.NEXT_UNLOCKED, asked).one_or_none()
                locked = task_from(found) if found else None
                found = found or tx.execute(queue_order.NEXT, asked).one_or_none()
                if found is None:
                    return None
                task = locked or self._lock_task_of(tx, found.step_id)
                claim = self._claim(tx, task, found.step_id, worker_id, lease_seconds)
                if claim:
                    return claim
        return None

    def _claim(
        self, tx: sa.Connection, task: Task | None, step_id: str, worker_id: str, lease_seconds: float
    ) -> Claim | None:
        """`task` is the step's, locked."""
        if task is None or task.status.is_final:
            return None
        row = tx.execute(
            statements.CLAIM, {"of_step": step_id, "by_worker": worker_id, "lease_seconds": lease_seconds}
        ).one_or_none()
        if row is None:
            return None
        begun = {"step_id": step_id, "attempt": row.attempt, "worker_id": worker_id, "started_at": row.started_at}
        tx.execute(statements.INSERT_ATTEMPT, begun)
        waited = max(0.0, row.started_at - row.ready_at)
        turn = {"claimed_at": row.started_at}
        tx.execute(statements.PASS_TURN, {"of_task": task.task_id, "claimed": row.started_at})
        if task.status == Status.STARTED:
            tx.execute(tasks.update().where(tasks.c.task_id == task.task_id).values(turn))
        else:
            task = self._move_task(tx, task, Status.STARTED, started_at=row.started_at, **turn)
            counters.count(tx, Duration("task_waiting_seconds", task.engine, waited))
        tells_progress = bool(deliveries.wanted(tx, task, CallbackEvent.PROGRESS))
        needed = tx.execute(statements.NEEDED_STEPS, {"of_step": step_id}) if row.position else ()
        done = made_steps(tx, [step_from(needed_row) for needed_row in needed])
        inputs = read_inputs(tx, task.task_id)
        return Claim(step_from(row), task, row.started_at, waited, tells_progress, done, inputs)

    def renew(self, claim: Claim, lease_seconds: float, progress: int, phase: str | None) -> bool:
        """Say that the attempt lives, and how far it is. False: canceled or taken over, the attempt must end."""
        task_id, renewal = claim.task.task_id, {"lease_seconds": lease_seconds, "so_far": progress, "in_phase": phase}
        with writing(self.database) as tx:
            before = deliveries.progress_of(tx, task_id) if claim.tells_progress else 0
            if not tx.execute(statements.RENEW, _mine(claim) | renewal).rowcount:
                return False
            if claim.tells_progress:
                self._tell_progress(tx, task_id, before)
            return True

    def _tell_progress(self, tx: sa.Connection, task_id: str, before: int) -> None:
        """Write a callback if the task has passed another ten percent, unless it has ended."""
        if deliveries.progress_of(tx, task_id) // TOLD_PERCENT > before // TOLD_PERCENT:
            task = self._task(tx, task_id)
            if not task.status.is_final:
                deliveries.write(tx, task, CallbackEvent.PROGRESS)

    def renew_all(
        self, claims: Collection[Claim], lease_seconds: float, reached: Sequence[tuple[Claim, int, str | None]] = ()
    ) -> set[tuple[str, int]]:
        """Say that these attempts live, in one statement; `reached` are those of them that got further, each with its
        progress and phase. Returns those that may go on, by step and attempt: each other one was canceled or taken
        over, and must end."""
        if not claims:
            return set()
        held = [(claim.step.step_id, claim.step.attempt) for claim in claims]
        told = {claim.task.task_id for claim, *_ in reached if claim.tells_progress}
        advances = [_mine(claim) | {"so_far": progress, "in_phase": phase} for claim, progress, phase in reached]
        with writing(self.database) as tx:
            tx.execute(statements.LOCK_HELD, {"held": held})
            before = {task_id: deliveries.progress_of(tx, task_id) for task_id in told}
            renewed = tx.execute(statements.RENEW_ALL, {"held": held, "lease_seconds": lease_seconds})
            mine = {(row.step_id, row.attempt) for row in renewed}
            if advances:
                tx.execute(statements.ADVANCE, advances)
            for task_id in told:
                self._tell_progress(tx, task_id, before[task_id])
            return mine

    def finish(
        self,
        claim: Claim,
        artifacts: Collection[Artifact],
        receipt: dict[str, Any],
        phases: dict[str, float],
        warnings: Sequence[str] = (),
        more: Sequence[NewStep] = (),
        result_step: str | None = None,
        cost: dict[str, Any] | None = None,
        stored_bytes: int = 0,
        render_seconds: float | None = None,
        waited_seconds: float = 0.0,
    ) -> list[ReadyStep] | None:
        """Record what the attempt made, and end its step. Returns the steps that became ready, or None if the attempt
        was no longer the newest: then nothing was written.

        `phases` are the seconds of each, `warnings` what a user should know, `cost` is `amount` and `currency`,
        `stored_bytes` the artifacts' size. `more` are the steps that turned out to be needed: these share the weight
        that was reserved for them, and `result_step` is the name of the one that makes the task's result, None: the
        one that was to make it before. `render_seconds` are those until its worker's engine was free again, None: all;
        then it `waited_seconds` for another step.
        """
        with writing(self.database) as tx:
            task = self._lock_task_of(tx, claim.step.step_id)
            before = deliveries.progress_of(tx, claim.task.task_id) if claim.tells_progress else 0
            made: dict[str, Any] = {"progress": 100, "receipt": receipt, "cost": cost, "reserved_weight": 0.0}
            if task is None or not self._end_step(tx, claim, Status.FINISHED, "finished", **made):
                return None
            self._record_made(tx, task, claim.step.step_id, artifacts, stored_bytes)
            seconds = self._now(tx) - claim.started_at - waited_seconds
            durations.record_duration(tx, durations.profile_of(claim.step), seconds, render_seconds)
            counters.count(tx, *(Duration(f"phase_seconds:{name}", task.engine, phases[name]) for name in phases))
            ready = self._release_dependants(tx, claim.step.step_id)
            if more:
                ready += self._add_steps(tx, task.task_id, sharing(claim.step.reserved_weight, more), result_step)
            if warnings:
                task = replace(task, warnings=[*task.warnings, *warnings])
                its = tasks.c.task_id == task.task_id
                tx.execute(tasks.update().where(its).values(warnings=task.warnings))
            self._end_task_if_done(tx, task)
            if claim.tells_progress:
                self._tell_progress(tx, task.task_id, before)
            return ready

    def _record_made(
        self, tx: sa.Connection, task: Task, step_id: str, artifacts: Collection[Artifact], stored_bytes: int
    ) -> None:
        if artifacts:
            tx.execute(statements.INSERT_ARTIFACT, [vars(each) | {"step_id": step_id} for each in artifacts])
        if stored_bytes:
            its = tasks.c.task_id == task.task_id
            tx.execute(tasks.update().where(its).values(stored_bytes=tasks.c.stored_bytes + stored_bytes))
            quotas.add_stored_bytes(tx, task.owner, stored_bytes)

    def checkpoint(self, claim: Claim, data: dict[str, Any]) -> bool:
        """Keep `data` for the step's next attempt, in place of what was kept. False if the attempt was no longer the
        newest: then nothing was written."""
        with writing(self.database) as tx:
            kept = steps.update().where(statements.IS_MINE).values(checkpoint=data)
            return bool(tx.execute(kept, _mine(claim)).rowcount)

    def fail(self, claim: Claim, error: ErrorInfo) -> bool:
        """End the step with `error`, and if it is essential its task. False if the attempt was no longer the newest."""
        with writing(self.database) as tx:
            task = self._lock_task_of(tx, claim.step.step_id)
            return task is not None and self._fail_step(tx, task, claim, "failed", error)

    def lose(self, claim: Claim, error: ErrorInfo, max_attempts: int, rest_seconds: float = 0.0) -> bool:
        """End an attempt that cannot go on, for another to begin after a growing pause, and after `rest_seconds` at
        least; without one left the step fails. False if the attempt was no longer the newest."""
        with writing(self.database) as tx:
            task = self._lock_task_of(tx, claim.step.step_id)
            if task is None:
                return False
            return self._end_lost_attempt(tx, replace(claim, task=task), max_attempts, error, rest_seconds)

    def give_back(self, claim: Claim, rest_seconds: float = 0.0) -> bool:
        """Queue the step again, without using up an attempt, to be claimed once it has rested."""
        with writing(self.database) as tx:
            self._lock_task_of(tx, claim.step.step_id)
            return self._end_step(tx, claim, Status.QUEUED, "given_back", rest_seconds=rest_seconds)

    # --- a rest ---

    def end_rest(self, rest: Rest) -> None:
        """Let the step be claimed. Nothing changes if this rest is over."""
        self._change_rest(rest, rest_seconds=0.0, rested_at=None, ready_at=now())

    def note_rest(self, rest: Rest, seconds: float) -> None:
        """Record that no more than `seconds` of the rest are left."""
        self._change_rest(rest, rest_seconds=seconds, rested_at=now())

    def _change_rest(self, rest: Rest, **values: Any) -> None:
        its = sa.and_(steps.c.step_id == rest.step_id, steps.c.attempt == rest.attempt, steps.c.status == Status.QUEUED)
        left = values["rest_seconds"]
        with writing(self.database) as tx:
            tx.execute(steps.update().where(its, steps.c.rest_seconds > left).values(**values))

    # --- from outside ---

    def cancel(self, task_id: str, owner: str | None = None) -> Task:
        """The task is canceled from now on, unless it had ended before. Raises TaskNotFound."""
        self.task(task_id, owner)
        with writing(self.database) as tx:
            task = self._lock_task(tx, task_id)
            if task and not task.status.is_final:
                tx.execute(statements.LOCK_STEPS, {"task_id": task_id})
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
            if task:  # it may fail, and end the others: see _fail_step
                tx.execute(statements.LOCK_STEPS, {"task_id": task.task_id})
            row = tx.execute(sa.select(steps).where(unchanged).with_for_update()).one_or_none()
            if task is None or row is None:
                return False
            return self._end_lost_attempt(tx, Claim(step_from(row), task, row.started_at, 0.0), max_attempts, None)

    def _end_lost_attempt(
        self,
        tx: sa.Connection,
        claim: Claim,
        max_attempts: int,
        error: ErrorInfo | None,
        rest_seconds: float = 0.0,
    ) -> bool:
        """Queue the step for another attempt after a growing pause; without one left, its task fails."""
        step_id = claim.step.step_id
        lost_before = tx.execute(statements.LOST_ATTEMPTS, {"of_step": step_id}).scalar_one()
        if lost_before + 1 < (claim.step.max_attempts or max_attempts):
            rest = max(pause_after(lost_before + 1), rest_seconds)
            return self._end_step(tx, claim, Status.QUEUED, "lost", error=error, rest_seconds=rest)
        error = ErrorInfo(EXHAUSTED.code, f"{EXHAUSTED.message}; the last: {error.message}") if error else EXHAUSTED
        return self._fail_step(tx, claim.task, claim, "lost", error)

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

    def forget(self, task_ids: Collection[str]) -> int:
        """Delete tasks with all that is recorded of them. Returns how many: one that has not ended stays, and so does
        one of which something is still to be told."""
        with writing(self.database) as tx:
            return tx.execute(retention.FORGET, {"task_ids": list(task_ids)}).rowcount

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
            values = {"ready_at": now(), "rested_at": now(), "phase": None} | values
            values["task_claimed_at"] = statements.TASK_CLAIMED_AT  # others of its task may have been claimed meanwhile
        else:
            values |= {"finished_at": now()}
        if status == Status.FAILED and error:
            values |= {"error_code": error.code, "error_message": error.message}
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

    def _fail_step(self, tx: sa.Connection, task: Task, claim: Claim, outcome: str, error: ErrorInfo) -> bool:
        """End a step that failed for good. An essential one ends its task: what else of it waits or runs is of no use
        any more. Of another one only what needs it is canceled."""
        if claim.step.essential:  # before its own row: whoever renews several leases locks them in the same order
            tx.execute(statements.LOCK_STEPS, {"task_id": task.task_id})
        if not self._end_step(tx, claim, Status.FAILED, outcome, error=error):
            return False
        if claim.step.essential:
            self._close_steps(tx, task.task_id, Status.CANCELED)
        else:
            self._cancel_dependants(tx, claim.step.step_id)
        self._end_task_if_done(tx, task)
        return True

    def _cancel_dependants(self, tx: sa.Connection, step_id: str) -> None:
        """Cancel all that needs the step, directly or not. None of them can have started."""
        dependants = sa.select(needs.c.step_id).where(needs.c.needed_id == step_id).cte(recursive=True)
        dependants = dependants.union(
            sa.select(needs.c.step_id).join(dependants, needs.c.needed_id == dependants.c.step_id)
        )
        useless = sa.and_(steps.c.step_id.in_(sa.select(dependants.c.step_id)), steps.c.status == Status.QUEUED)
        tx.execute(steps.update().where(useless).values(status=Status.CANCELED, finished_at=now()))

    def _end_task_if_done(self, tx: sa.Connection, task: Task) -> None:
        """End the task if none of its steps is left to do: with the result of its result step, or with what failed."""
        if tx.execute(statements.OPEN_STEPS, {"task_id": task.task_id}).scalar_one():
            return
        failed = tx.execute(statements.FAILED_STEPS, {"task_id": task.task_id}).all()
        if failed:
            error = error_of(failed)
            self._end_task(tx, task, Status.FAILED, error_code=error.code, error_message=error.message)
        else:
            receipt = tx.execute(statements.RECEIPT, {"task_id": task.task_id}).scalar_one()
            self._end_task(tx, task, Status.FINISHED, receipt=receipt)

    def _close_steps(self, tx: sa.Connection, task_id: str, status: Status) -> None:
        """The caller holds their rows."""
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
        kept = tx.execute(statements.CHECKPOINTS, {"task_id": task.task_id}).scalars()
        if said := checkpoints.warnings_of(kept):
            values["warnings"] = list(dict.fromkeys([*task.warnings, *said]))
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


def sharing(reserved_weight: float, new: Sequence[NewStep]) -> list[NewStep]:
    """Return the steps with weights that share what was reserved for them, so that the task's progress stays where it
    is. Raises ValueError if nothing was."""
    if reserved_weight <= 0:
        raise ValueError("a step that adds others must have reserved weight for them")
    weights = [step.work + 1 if step.weight is None else step.weight for step in new]
    share = reserved_weight / ((sum(weights) + sum(step.reserved_weight for step in new)) or 1.0)
    return [
        replace(step, weight=share * weight, reserved_weight=share * step.reserved_weight)
        for step, weight in zip(new, weights, strict=True)
    ]


def error_of(failed: Sequence[Any]) -> ErrorInfo:
    """Return what ended a task in which these steps failed, in their order: the first one's code, and what each
    said."""
    first, *others = failed
    if not others:
        return ErrorInfo(first.error_code, first.error_message)
    return ErrorInfo(first.error_code, "; ".join(f"{step.name}: {step.error_message}" for step in failed))


def queues_to_wait_in(new: Sequence[NewStep]) -> set[str]:
    """Return the queues in which steps of a new task wait at once."""
    finished = {step.name or str(position) for position, step in enumerate(new) if step.finished}
    return {step.queue for step in new if not step.finished and finished.issuperset(step.needs)}
