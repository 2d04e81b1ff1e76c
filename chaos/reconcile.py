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

from chaos.load import CLIPS_IN_A_GRAPH, Accepted
from chaos.service import Death, Service, Trouble
from core.db.tables import attempts, events, idempotency_keys, inputs, steps, tasks
from core.errors import TaskNotFound
from core.ledger.moves import Ledger
from core.spec import Clip
from core.task import FINAL, Status
from harness.receiver import Receiver

MAX_ATTEMPTS = 3
# Faults that take the ledger from every worker: the leases of all may run out.
LEDGER_AWAY = ("PostgreSQL crashed", "PostgreSQL frozen 3 s")


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
    """What happened twice: a task for one key, a finished step, an end."""
    leftovers: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    """Answers that no fault excuses: a 500, say."""
    unexplained: list[str] = field(default_factory=list)
    """Tasks that failed though nothing was done to them that would have them fail."""
    crashes: list[str] = field(default_factory=list)
    """In a log, or a process that ended by itself."""
    takeovers: list["Takeover"] = field(default_factory=list)
    lost_attempts: int = 0
    lost_by_living: int = 0

    @property
    def broken(self) -> list[str]:
        promises = self.lost + self.stuck + self.double + self.leftovers
        return promises + self.unexpected + self.unexplained + self.crashes


def reconcile(service: Service, ledger: Ledger, accepted: Accepted, receiver: Receiver) -> Verdict:
    verdict = Verdict(unexpected=accepted.unexpected + receiver.refused)
    told: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for received in receiver.received:
        if received.body["data"]["status"] in FINAL:
            told[received.body["data"]["task_id"]].add((received.delivery_id, received.body["type"]))
    with httpx2.Client(base_url=service.url, timeout=30) as client:
        for task_id in accepted.tasks:
            canceled, is_graph = task_id in accepted.canceled, task_id in accepted.graphs
            _check_task(verdict, client, ledger, task_id, told[task_id], canceled, is_graph)
    _check_keys(verdict, accepted)
    _check_ledger(verdict, ledger)
    _check_files(verdict, ledger, service.folder / "data" / "storage" / "tasks")
    verdict.takeovers = takeovers(ledger, service.deaths)
    hit, found = service.hit, lost_attempts(ledger)
    caused = [death for death in service.deaths if death.pid in hit]
    verdict.unexplained = unexplained(ledger, caused, service.troubles)
    verdict.lost_attempts = len(found)
    verdict.lost_by_living = len([row for row in found if not died_in(row, service.deaths)])
    return verdict


def _check_task(
    verdict: Verdict,
    client: httpx2.Client,
    ledger: Ledger,
    task_id: str,
    told: set[tuple[str, str]],
    said_to_be_canceled: bool,
    is_graph: bool,
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
        elif not _is_of(video, Clip.model_validate(task.params), is_graph):
            verdict.lost.append(f"{task_id} has a video of another shape than was asked for")
    ends = {event for _, event in told}
    if ends != {f"task.{task.status}"}:
        verdict.lost.append(f"{task_id} is {task.status}, but the receiver was told {sorted(ends)}")
    if len(told) > 1:
        verdict.double.append(f"{task_id} was told under {len(told)} ids")


def _is_of(video: bytes, clip: Clip, is_graph: bool) -> bool:
    """A graph's has the frames of all its clips."""
    count = clip.frames_in_all * (CLIPS_IN_A_GRAPH if is_graph else 1)
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
    """The tasks that failed, but those with a step each of whose attempts was taken from it by what was done: its
    worker was hit, or the ledger was."""
    failed = sa.select(tasks.c.task_id, tasks.c.error_code, steps.c.step_id).join(
        steps, sa.and_(steps.c.task_id == tasks.c.task_id, steps.c.status == Status.FAILED), isouter=True
    )
    with ledger.database.connect() as connection:
        rows = connection.execute(failed.where(tasks.c.status == Status.FAILED)).all()
    taken = Counter(
        row.step_id
        for row in lost_attempts(ledger)
        if died_in(row, caused) or any(away(row, trouble) for trouble in troubles)
    )
    explained = {
        row.task_id for row in rows if row.error_code == "attempts_exhausted" and taken[row.step_id] == MAX_ATTEMPTS
    }
    return [
        f"{row.task_id} failed with {row.error_code} after {taken[row.step_id]} attempts were taken from {row.step_id}"
        for row in rows
        if row.task_id not in explained
    ]


def away(row: sa.Row[Any], trouble: Trouble) -> bool:
    return trouble.fault in LEDGER_AWAY and trouble.begun <= row.ended_at and row.started_at <= trouble.over
