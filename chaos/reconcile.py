"""After the faults: was every promise kept? Looks into the ledger, the storage, and what the receiver was told; the
logs are chaos/service.py's."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import httpx2
import sqlalchemy as sa

from chaos.graphs import frames_of, hosted
from chaos.load import Accepted
from chaos.service import Death, Service, Trouble
from core.db.tables import attempts, events, idempotency_keys, inputs, steps, tasks
from core.errors import AttemptsExhausted, EngineFailed, NotTaken, TaskNotFound, TimeLimitExceeded, Unavailable
from core.ledger.moves import Ledger
from core.requests.clip import Clip
from core.status import FINAL, Status
from core.task import Step, Task
from harness.provider import Provider
from harness.receiver import Receiver

MAX_ATTEMPTS = 3
# Faults that take the ledger from every worker: the leases of all may run out.
LEDGER_AWAY = ("PostgreSQL crashed", "PostgreSQL frozen 3 s")
# What the provider's faults take an attempt by.
PROVIDER_EXPLAINS = {
    "hangs": {TimeLimitExceeded.code},
    "answers late": {TimeLimitExceeded.code},
    "is away": {Unavailable.code, TimeLimitExceeded.code},
    "loses answers": {Unavailable.code},
    "refuses": {NotTaken.code},
}
MAY_BE_PAID = "may have been asked, and paid, for nothing"


@dataclass(frozen=True)
class Takeover:
    """A worker died at a step, and the next attempt at it began; seconds since the epoch."""

    died_at: float
    began_at: float

    @property
    def seconds(self) -> float:
        return self.began_at - self.died_at

    def overlaps(self, troubles: list[Trouble]) -> bool:
        return any(trouble.begun < self.began_at and self.died_at < trouble.over for trouble in troubles)


@dataclass
class Verdict:
    statuses: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    """Promises that were forgotten: a task that is not there, a video that cannot be had, an end that nobody told."""
    stuck: list[str] = field(default_factory=list)
    """Tasks that did not end."""
    double: list[str] = field(default_factory=list)
    """What happened twice: a task for one key, a finished step, an end, a plan."""
    paid_twice: list[str] = field(default_factory=list)
    """Steps for which the provider was asked again after an attempt had recorded what it answered."""
    unmarked: list[str] = field(default_factory=list)
    """What may have been paid for nothing, and nobody was told."""
    marked: int = 0
    """Steps of which it is said that they may have been paid for nothing."""
    heard_again: int = 0
    """Steps that the provider did hear more than once."""
    leftovers: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    """Answers that no fault excuses: a 500, say."""
    unexplained: list[str] = field(default_factory=list)
    """Tasks that failed though nothing was done to them that would have them fail."""
    crashes: list[str] = field(default_factory=list)
    """In a log, or a process that ended by itself."""
    takeovers: list["Takeover"] = field(default_factory=list)
    lost_attempts: int = 0
    lost_to_provider: int = 0
    lost_to_ledger: int = 0
    """A worker that cannot renew for a whole lease stops by itself."""
    lost_by_living: list[str] = field(default_factory=list)
    """Attempts that ended though nothing was done to their worker, the provider or the ledger."""

    @property
    def broken(self) -> list[str]:
        promises = self.lost + self.stuck + self.double + self.paid_twice + self.unmarked + self.leftovers
        return promises + self.unexpected + self.unexplained + self.crashes


def reconcile(service: Service, ledger: Ledger, accepted: Accepted, receiver: Receiver) -> Verdict:
    verdict = Verdict(unexpected=accepted.unexpected + receiver.refused)
    told: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for received in receiver.received:
        if received.body["data"]["status"] in FINAL:
            told[received.body["data"]["task_id"]].add((received.delivery_id, received.body["type"]))
    with httpx2.Client(base_url=service.url, timeout=30) as client:
        for task_id in accepted.tasks:
            canceled, shape = task_id in accepted.canceled, accepted.graphs.get(task_id)
            _check_task(verdict, client, ledger, task_id, told[task_id], canceled, shape)
    _check_keys(verdict, accepted)
    _check_ledger(verdict, ledger)
    check_graphs(verdict, ledger)
    if service.provider:
        check_provider(verdict, ledger, service.provider)
    _check_files(verdict, ledger, service.folder / "data" / "storage" / "tasks")
    verdict.takeovers = takeovers(ledger, service.deaths)
    hit, found = service.hit, lost_attempts(ledger)
    caused = [death for death in service.deaths if death.pid in hit]
    verdict.unexplained = unexplained(ledger, caused, service.troubles)
    verdict.lost_attempts = len(found)
    living = [row for row in found if not died_in(row, service.deaths)]
    to_provider = [row for row in living if by_provider(row, service.troubles)]
    to_ledger = [row for row in living if row not in to_provider and away_for(row, service.troubles)]
    verdict.lost_to_provider, verdict.lost_to_ledger = len(to_provider), len(to_ledger)
    left = [row for row in living if row not in to_provider + to_ledger]
    verdict.lost_by_living = [described(row, service.deaths, service.troubles) for row in left]
    return verdict


def _check_task(
    verdict: Verdict,
    client: httpx2.Client,
    ledger: Ledger,
    task_id: str,
    told: set[tuple[str, str]],
    said_to_be_canceled: bool,
    shape: str | None,
) -> None:
    try:
        task = ledger.task(task_id)
    except TaskNotFound:
        verdict.lost.append(f"{task_id} is not in the ledger")
        return
    verdict.statuses[task.status] += 1
    if task.error:
        verdict.errors[task.error.code] += 1
    if task.status not in FINAL:
        verdict.stuck.append(f"{task_id} is {task.status}")
        return
    if said_to_be_canceled and task.status != Status.CANCELED:
        verdict.double.append(f"{task_id} is {task.status} after a caller was told that it is canceled")
    if task.status == Status.FINISHED:
        video = client.get(f"/results/{task_id}").content
        if hashlib.sha256(video).hexdigest() != (task.receipt or {}).get("output_sha256"):
            verdict.lost.append(f"{task_id} has no video that its receipt is of")
        elif not _is_of(video, Clip.model_validate(task.params), shape):
            verdict.lost.append(f"{task_id} has a video of another shape than was asked for")
    ends = {event for _, event in told}
    if ends != {f"task.{task.status}"}:
        verdict.lost.append(f"{task_id} is {task.status}, but the receiver was told {sorted(ends)}")
    if len(told) > 1:
        verdict.double.append(f"{task_id} was told under {len(told)} ids")


def _is_of(video: bytes, clip: Clip, shape: str | None) -> bool:
    """A graph's has the frames of all its clips."""
    count = frames_of(clip, shape)
    with av.open(BytesIO(video)) as container:
        stream = container.streams.video[0]
        size = stream.width, stream.height
        return size == (clip.width, clip.height) and sum(1 for _ in container.decode(stream)) == count


def _check_keys(verdict: Verdict, accepted: Accepted) -> None:
    for key, count in Counter(key for key in accepted.tasks.values() if key).items():
        if count > 1:
            verdict.double.append(f"{count} tasks for the key {key}")


def _check_ledger(verdict: Verdict, ledger: Ledger) -> None:
    """Of every task, also those whose caller never got the answer."""
    final = events.c.kind.in_(sorted(FINAL))
    ends = sa.select(events.c.task_id, sa.func.count()).where(final).group_by(events.c.task_id)
    finished = sa.select(attempts.c.step_id, sa.func.count()).where(attempts.c.outcome == "finished")
    lost = sa.select(attempts.c.step_id, sa.func.count()).where(attempts.c.outcome == "lost")
    unfinished = (
        sa.select(steps.c.step_id)
        .join(tasks, tasks.c.task_id == steps.c.task_id)
        .where(tasks.c.status == Status.FINISHED, steps.c.status != Status.FINISHED)
    )
    by_another = (
        sa.select(attempts.c.step_id, attempts.c.attempt)
        .join(steps, steps.c.step_id == attempts.c.step_id)
        .where(attempts.c.outcome == "finished", attempts.c.attempt != steps.c.attempt)
    )
    # Each caller sends a key: what has none was made besides, by a repeated request. Graphs have no picture's sum.
    of_a_key = sa.select(idempotency_keys.c.task_id)
    keyless = sa.select(inputs.c.task_id).where(inputs.c.sha256 != "", inputs.c.task_id.not_in(of_a_key))
    with ledger.database.connect() as connection:
        for step_id, attempt in connection.execute(by_another):
            verdict.double.append(f"the step {step_id} was finished by its attempt {attempt}, which was not its newest")
        verdict.double += [f"{task_id} ended {count} times" for task_id, count in connection.execute(ends) if count > 1]
        for step_id, count in connection.execute(finished.group_by(attempts.c.step_id)):
            if count > 1:
                verdict.double.append(f"the step {step_id} finished {count} times")
        for step_id, count in connection.execute(lost.group_by(attempts.c.step_id)):
            if count > MAX_ATTEMPTS:
                verdict.double.append(f"the step {step_id} was lost {count} times")
        verdict.lost += [f"{step_id} of a finished task did not" for (step_id,) in connection.execute(unfinished)]
        verdict.double += [f"the task {task_id} came of no key" for (task_id,) in connection.execute(keyless)]
    for status in (Status.QUEUED, Status.STARTED):
        verdict.stuck += [f"{task.task_id} is {status}" for task in ledger.tasks(status=status, after=None, limit=200)]
    verdict.stuck = sorted(set(verdict.stuck))


def check_graphs(verdict: Verdict, ledger: Ledger) -> None:
    """Those that plan themselves, and those of which one step always fails."""
    asked = sa.select(steps.c.task_id).where(steps.c.kind.in_(["plans", "fails"])).distinct()
    with ledger.database.connect() as connection:
        task_ids = connection.execute(asked).scalars().all()
    for task, found in (ledger.task_with_steps(task_id) for task_id in task_ids):
        if found[0].kind == "plans":
            check_plan(verdict, found[0], found[1:])
        else:
            check_failure(verdict, task, found)


def check_plan(verdict: Verdict, planning: Step, others: Sequence[Step]) -> None:
    """What a step planned is there once it has finished, all of it and once: the names say by which attempt."""
    finished = planning.status == Status.FINISHED
    planned = {step.name for step in hosted(f"{planning.attempt} ").steps} if finished else set()
    there = {step.name for step in others}
    if missing := planned - there:
        verdict.lost.append(f"{planning.task_id} lacks {sorted(missing)}, which its step planned")
    if more := there - planned:
        verdict.double.append(f"{planning.task_id} has {sorted(more)} besides what its step planned last")


def check_failure(verdict: Verdict, task: Task, found: Sequence[Step]) -> None:
    """A task with a step that always fails ends with that step's error, and all that does not need it is finished."""
    failed = {step.name: step.error for step in found if step.status == Status.FAILED}
    if task.status != Status.FAILED:
        verdict.lost.append(f"{task.task_id} is {task.status}, and has a step that fails")
    elif set(failed) == {"fails"}:
        unfinished = [step.name for step in found if step.status != Status.FINISHED]
        if unfinished != ["fails", "after"]:
            verdict.lost.append(f"{task.task_id} ended with {unfinished} unfinished, though only one step failed")
        if task.error != failed["fails"]:
            verdict.lost.append(f"{task.task_id} says {task.error}, and its step {failed['fails']}")


def check_provider(verdict: Verdict, ledger: Ledger, provider: Provider) -> None:
    """Of every step that somebody else's server did: how often was it asked for, and what is said of that?"""
    asked = sa.select(steps.c.step_id, steps.c.checkpoint, tasks.c.status, tasks.c.warnings)
    asked = asked.join(tasks, tasks.c.task_id == steps.c.task_id).where(steps.c.kind == "hosted")
    with ledger.database.connect() as connection:
        rows = connection.execute(asked).all()
    for row in rows:
        kept, heard = row.checkpoint or {}, [each for each in provider.heard if each.step_id == row.step_id]
        recorded = provider.asked_about | {kept.get("submitted", {}).get("job")}
        by = min((each.attempt for each in heard if each.job in recorded), default=None)
        if by is not None and any(each.attempt > by for each in heard):
            verdict.paid_twice.append(f"{row.step_id} was asked for again after its attempt {by} had a handle")
        lost = kept.get("lost", 0) + ("intended" in kept)  # by itself: a check is not to trust what it checks
        known = lost + ("submitted" in kept)
        if len(heard) > known:
            verdict.unmarked.append(f"{row.step_id} was asked for {len(heard)} times, and the ledger knows {known}")
        if lost and row.status in FINAL and not any(MAY_BE_PAID in said for said in row.warnings):
            verdict.unmarked.append(f"{row.step_id} may have been paid for nothing, and its task does not say so")
        verdict.marked += bool(lost)
        verdict.heard_again += len(heard) > 1


def _check_files(verdict: Verdict, ledger: Ledger, folder: Path) -> None:
    """The sweep has been through. What lies under a task's own folder goes with the task."""
    stored = [path.name for path in folder.iterdir()]
    verdict.leftovers += [f"files of no task: {task_id}" for task_id in sorted(ledger.unknown(stored))]


def takeovers(ledger: Ledger, deaths: list[Death]) -> list[Takeover]:
    """Of each attempt that died with its worker and that another followed."""
    query = sa.select(attempts).order_by(attempts.c.step_id, attempts.c.attempt)
    with ledger.database.connect() as connection:
        rows = connection.execute(query).all()
    found = []
    for row, after in pairwise(rows):
        if row.outcome != "lost" or after.step_id != row.step_id:
            continue
        if died := died_in(row, deaths):
            found.append(Takeover(min(died), after.started_at))
    return found


def died_in(row: sa.Row[Any], deaths: list[Death]) -> list[float]:
    """When the worker of this attempt died in it; twice where it froze and was killed then."""
    pid = int(row.worker_id.rsplit("-", 2)[1])  # host-pid-random
    return [death.at for death in deaths if death.pid == pid and row.started_at <= death.at <= row.ended_at]


def lost_attempts(ledger: Ledger) -> Sequence[sa.Row[Any]]:
    with ledger.database.connect() as connection:
        return connection.execute(sa.select(attempts).where(attempts.c.outcome == "lost")).all()


def unexplained(ledger: Ledger, caused: list[Death], troubles: list[Trouble]) -> list[str]:
    """The steps that failed, but those that always do, and those each of whose attempts was taken from it by what was
    done: its worker was hit, or the ledger was, or the provider."""
    code = sa.func.coalesce(steps.c.error_code, tasks.c.error_code).label("error_code")
    failed = sa.select(tasks.c.task_id, steps.c.step_id, steps.c.kind, code).join(
        steps, sa.and_(steps.c.task_id == tasks.c.task_id, steps.c.status == Status.FAILED), isouter=True
    )
    with ledger.database.connect() as connection:
        rows = connection.execute(failed.where(tasks.c.status == Status.FAILED)).all()
    found: dict[str, list[sa.Row[Any]]] = defaultdict(list)
    for row in lost_attempts(ledger):
        found[row.step_id].append(row)
    told = []
    for row in rows:
        left = [
            each
            for each in found[row.step_id]
            if not (died_in(each, caused) or away_for(each, troubles) or by_provider(each, troubles))
        ]
        taken = len(found[row.step_id]) - len(left)
        always_fails = (row.kind, row.error_code) == ("fails", EngineFailed.code)
        if not always_fails and not (row.error_code == AttemptsExhausted.code and taken == MAX_ATTEMPTS):
            said = [described(each, caused, troubles) for each in left]
            told.append(f"{row.task_id} failed with {row.error_code} after {taken} attempts were taken; not: {said}")
    return told


def away_for(row: sa.Row[Any], troubles: list[Trouble]) -> bool:
    return any(trouble.fault in LEDGER_AWAY and meets(row, trouble) for trouble in troubles)


def by_provider(row: sa.Row[Any], troubles: list[Trouble]) -> bool:
    """A step's last attempt bears the step's own error, which quotes what the attempt ended by."""
    is_last = row.error_code == AttemptsExhausted.code and "the last: " in row.error_message
    return any(
        (explains := PROVIDER_EXPLAINS.get(trouble.fault.removeprefix("provider ")))
        and (row.error_code in explains or is_last)
        and meets(row, trouble)
        for trouble in troubles
    )


def meets(row: sa.Row[Any], trouble: Trouble) -> bool:
    return trouble.begun <= row.ended_at and row.started_at <= trouble.over


def described(row: sa.Row[Any], deaths: list[Death], troubles: list[Trouble]) -> str:
    """An attempt, and what was broken meanwhile or just before; seconds from when it began."""
    near = [(trouble.begun, trouble.fault) for trouble in troubles if trouble.over >= row.started_at - 15.0]
    near += [(death.at, f"process {death.pid} hit") for death in deaths if death.at >= row.started_at - 15.0]
    said = [f"{fault} {at - row.started_at:+.1f} s" for at, fault in sorted(near) if at <= row.ended_at]
    ran = row.ended_at - row.started_at
    return f"{row.step_id} attempt {row.attempt} of {row.worker_id}, {row.error_code} after {ran:.1f} s: {said}"
