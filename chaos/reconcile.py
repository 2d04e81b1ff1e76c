"""After the faults: was every promise kept? Looks into the ledger, the storage, and what the receiver was told."""

import hashlib
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import av
import httpx2
import sqlalchemy as sa

from chaos.load import Accepted
from chaos.service import Death, Service
from core.errors import TaskNotFound
from core.ledger import Ledger
from core.tables import attempts, events, steps, tasks
from core.task import FINAL, Status
from harness.receiver import Receiver

MAX_ATTEMPTS = 3


@dataclass(frozen=True)
class Takeover:
    """A worker died at a step, and the next attempt at it began; seconds since the epoch."""

    died_at: float
    began_at: float

    @property
    def seconds(self) -> float:
        return self.began_at - self.died_at

    def overlaps(self, troubles: list[tuple[float, float]]) -> bool:
        return any(begun < self.began_at and self.died_at < over for begun, over in troubles)


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
    takeovers: list["Takeover"] = field(default_factory=list)

    @property
    def broken(self) -> list[str]:
        return self.lost + self.stuck + self.double + self.leftovers + self.unexpected


def reconcile(service: Service, ledger: Ledger, accepted: Accepted, receiver: Receiver) -> Verdict:
    verdict = Verdict(unexpected=accepted.unexpected)
    told: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for received in receiver.received:
        if received.body["data"]["status"] in FINAL:
            told[received.body["data"]["task_id"]].add((received.delivery_id, received.body["type"]))
    with httpx2.Client(base_url=service.url, timeout=30) as client:
        for task_id in accepted.tasks:
            _check_task(verdict, client, ledger, task_id, told[task_id], task_id in accepted.canceled)
    _check_keys(verdict, accepted)
    _check_ledger(verdict, ledger)
    _check_files(verdict, ledger, service.folder / "data" / "storage" / "tasks")
    verdict.takeovers = takeovers(ledger, service.deaths)
    return verdict


def _check_task(
    verdict: Verdict,
    client: httpx2.Client,
    ledger: Ledger,
    task_id: str,
    told: set[tuple[str, str]],
    said_to_be_canceled: bool,
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
        if hashlib.sha256(video).hexdigest() != (task.receipt or {}).get("output_sha256") or not _has_frames(video):
            verdict.lost.append(f"{task_id} has no video that its receipt is of")
    ends = {event for _, event in told}
    if ends != {f"task.{task.status}"}:
        verdict.lost.append(f"{task_id} is {task.status}, but the receiver was told {sorted(ends)}")
    if len(told) > 1:
        verdict.double.append(f"{task_id} was told under {len(told)} ids")


def _has_frames(video: bytes) -> bool:
    with av.open(BytesIO(video)) as container:
        return any(True for _ in container.decode(video=0))


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
        # worker_id is host-pid-random; a process that froze and was killed then died when it froze.
        pid = int(row.worker_id.rsplit("-", 2)[1])
        died = [death.at for death in deaths if death.pid == pid and row.started_at <= death.at <= row.ended_at]
        if died:
            found.append(Takeover(min(died), after.started_at))
    return found
