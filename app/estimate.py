"""When a task will be done, from how long such steps took before, what stands before it, and who is there to work."""

from dataclasses import dataclass

from app.deps import Services
from app.queue_simulation import Simulation
from core.durations import StepDuration, StepDurations, profile_of
from core.errors import LedgerUnavailable
from core.queue import AT_ONCE
from core.reader import OpenStep
from core.task import Status, Step, Task, Worker


@dataclass(frozen=True)
class Estimate:
    queue_position: int | None
    """How many steps of its queue are served before this one, itself included; None once it has started."""
    eta_seconds: float | None
    """Seconds until the end; None while nothing of the kind has been measured, or nobody is there to do it."""


UNKNOWN = Estimate(None, None)
UNMEASURED = StepDuration(1.0, 0.0)
"""Of a step of which nothing is known, so that its place in the queue can be told."""


def estimate_task(services: Services, task: Task, steps: list[Step]) -> Estimate:
    """Return the place of the task's next step in its queue, and when its last step will be done."""
    left = [step for step in steps if not step.status.is_final]
    if task.status.is_final or not left:
        return UNKNOWN
    ledger = services.ledger
    known, everyone = ledger.step_durations(), ledger.workers()
    serving = {step.queue: [worker.worker_id for worker in everyone if worker.serves(step.queue)] for step in left}
    own = [known.of(profile_of(step)) for step in left]
    is_known = all(own) and all(serving[step.queue] for step in left if step.status != Status.STARTED)
    open_steps = ledger.open_steps()
    durations = durations_of(open_steps, known, own[0] or UNMEASURED)
    forecast = Simulation(open_steps, durations, with_everyone(serving, open_steps, everyone)).run()
    waiting = [step for step in left if step.status == Status.QUEUED]
    runs = len(waiting) < len(left)
    ready = [step for step in waiting if not step.waits_for]
    position = None if runs else min((forecast.served.get(step.step_id, 1) for step in ready), default=None)
    if not is_known:
        return Estimate(position, None)
    return Estimate(position, round(max(forecast.ends.get(step.step_id, 0.0) for step in left), 2))


def durations_of(steps: list[OpenStep], known: StepDurations, otherwise: StepDuration) -> dict[str, StepDuration]:
    """Return how long each step takes; without a measurement, as long as `otherwise`."""
    return {step.step_id: known.of(step.profile) or otherwise for step in steps}


def with_everyone(serving: dict[str, list[str]], steps: list[OpenStep], everyone: list[Worker]) -> dict[str, list[str]]:
    """Return the workers of each queue in which a step waits or runs, each as often as it does steps at a time;
    somebody, if nobody serves a queue, so that places in it can be told."""
    queues = {step.queue for step in steps}
    found = {queue: [each.worker_id for each in everyone if each.serves(queue)] for queue in queues} | serving
    return {queue: slots(queue, workers or [f"nobody serves {queue}"]) for queue, workers in found.items()}


def slots(queue: str, workers: list[str]) -> list[str]:
    if queue not in AT_ONCE:
        return workers
    return [f"{worker} {number}" for worker in workers for number in range(AT_ONCE[queue])]


def estimate_accepted(services: Services, task_id: str) -> tuple[Status, Estimate]:
    """Return the status and estimate of a task just accepted; UNKNOWN if the ledger is away by now: the task is
    safe."""
    try:
        task, steps = services.ledger.task_with_steps(task_id)
        return task.status, estimate_task(services, task, steps)
    except LedgerUnavailable:
        return Status.QUEUED, UNKNOWN
