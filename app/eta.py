"""When a task will be done, from how long such steps took before, what stands before it, and who is there to work."""

import heapq
from dataclasses import dataclass

from app.deps import Services
from core.errors import LedgerUnavailable
from core.speeds import kind_of
from core.task import Status, Step, Task


@dataclass(frozen=True)
class Outlook:
    queue_position: int | None
    """How many steps are served before this one, itself included; None once it has started."""
    eta_seconds: float | None
    """Seconds until the end; None while nothing of the kind has been measured, or nobody is there to do it."""


UNKNOWN = Outlook(None, None)


def look_ahead(services: Services, task: Task, steps: list[Step]) -> Outlook:
    left = [step for step in steps if not step.status.is_final]
    if task.status.is_final or not left:
        return UNKNOWN
    speeds, step = services.ledger.speeds(), left[0]
    own = [speeds.seconds(kind_of(step, task.engine)) for step in left]
    known = [seconds for seconds in own if seconds is not None]
    whole = sum(known) if len(known) == len(own) else None
    running = services.ledger.running(step.queue)
    if step.status == Status.STARTED:
        _, ran = running.get(step.step_id, (None, 0.0))
        return Outlook(None, None if whole is None else round(max(0.0, whole - ran), 2))
    ahead = services.ledger.ahead_of(step)
    position = len(ahead) + 1
    at_work = sum(worker.serves(step.queue) for worker in services.ledger.workers())
    if whole is None or not at_work:
        return Outlook(position, None)
    # Who was never measured takes as long as this one, for want of anything better.
    first = known[0]
    busy = [max(0.0, (speeds.seconds(kind) or first) - ran) for kind, ran in running.values()]
    before = [speeds.seconds(kind) or first for kind in ahead]
    return Outlook(position, round(wait(busy, before, at_work) + whole, 2))


def wait(busy: list[float], ahead: list[float], workers: int) -> float:
    """Seconds until one of `workers` is free: each is through with what it runs after `busy`, and then takes the
    next of what stands `ahead`."""
    free = sorted(busy)[-workers:]
    free += [0.0] * (workers - len(free))
    heapq.heapify(free)
    for seconds in ahead:
        heapq.heapreplace(free, free[0] + seconds)
    return free[0]


def at_acceptance(services: Services, task_id: str) -> tuple[Status, Outlook]:
    """What can be said at once; a ledger that is away by now takes nothing back of what was promised."""
    try:
        task, steps = services.ledger.task_with_steps(task_id)
        return task.status, look_ahead(services, task, steps)
    except LedgerUnavailable:
        return Status.QUEUED, UNKNOWN
