"""When a task will be done, from how long such steps took before, what stands before it, and who is there to work."""

import heapq
from dataclasses import dataclass

from app.deps import Services
from core.durations import StepDuration, profile_of
from core.errors import LedgerUnavailable
from core.task import Status, Step, Task, Worker


@dataclass(frozen=True)
class Estimate:
    queue_position: int | None
    """How many steps are served before this one, itself included; None once it has started."""
    eta_seconds: float | None
    """Seconds until the end; None while nothing of the kind has been measured, or nobody is there to do it."""


UNKNOWN = Estimate(None, None)


def estimate_task(services: Services, task: Task, steps: list[Step]) -> Estimate:
    left = [step for step in steps if not step.status.is_final]
    if task.status.is_final or not left:
        return UNKNOWN
    ledger, durations, step = services.ledger, services.ledger.step_durations(), left[0]
    own = [duration for duration in (durations.of(profile_of(step)) for step in left) if duration]
    waits = step.status != Status.STARTED
    ahead = ledger.ahead_of(step) if waits else []
    position = len(ahead) + 1 if waits else None
    everyone = ledger.workers()
    workers = [worker.worker_id for worker in everyone if worker.serves(step.queue)]
    to_be_served = {each.queue for each in (left if waits else left[1:])}
    if len(own) < len(left) or any(not serves(everyone, queue) for queue in to_be_served):
        return Estimate(position, None)
    # No measurement yet: assumed to take as long as this step.
    first, *later = own
    running = ledger.running(step.queue)
    under_way = [(found.worker_id, found.ran, durations.of(found.profile) or first) for found in running]
    waiting = [durations.of(profile) or first for profile in ahead] + [first] * waits
    ends = forecast(workers, under_way, waiting)
    by_step = dict(zip([found.step_id for found in running], ends, strict=False))
    mine = ends[-1] if waits else by_step.get(step.step_id, 0.0)  # it has just ended
    # A later step is the next one of its queue. That a step of another task may run before it, where a worker has begun
    # one while the step before is finalized, is not reckoned with.
    return Estimate(position, round(mine + sum(duration.seconds for duration in later), 2))


def serves(workers: list[Worker], queue: str) -> bool:
    return any(worker.serves(queue) for worker in workers)


WorkerSchedule = tuple[float, float]
"""When a worker can begin another step, and when its last finalize stage is over; in seconds from now."""


def forecast(
    workers: list[str], running: list[tuple[str, float, StepDuration]], waiting: list[StepDuration]
) -> list[float]:
    """Simulate the queue. Return the finish time of every running step (by whom, for how long already), oldest first,
    then of every waiting step, in seconds from now."""
    schedules: dict[str, WorkerSchedule] = dict.fromkeys(workers, IDLE)
    ends = []
    for worker, ran, duration in running:
        if worker not in schedules and schedules:  # it died: somebody else will do it
            worker = min(schedules, key=lambda name: schedules[name])
        schedules[worker] = with_step(schedules.get(worker, IDLE), duration, ran)
        ends.append(schedules[worker][1])
    heap = list(schedules.values())
    heapq.heapify(heap)
    for duration in waiting:
        schedule = with_step(heap[0], duration)
        heapq.heapreplace(heap, schedule)
        ends.append(schedule[1])
    return ends


IDLE: WorkerSchedule = (0.0, float("-inf"))


def with_step(schedule: WorkerSchedule, duration: StepDuration, ran: float = 0.0) -> WorkerSchedule:
    """Return `schedule` with one more step, which is finalized once the one before is."""
    handed_over = max(schedule[0] + duration.render - ran, schedule[1])
    return max(0.0, handed_over), max(0.0, handed_over + duration.finalize)


def estimate_accepted(services: Services, task_id: str) -> tuple[Status, Estimate]:
    """Return the status and estimate of a task just accepted; UNKNOWN if the ledger is away by now: the task is
    safe."""
    try:
        task, steps = services.ledger.task_with_steps(task_id)
        return task.status, estimate_task(services, task, steps)
    except LedgerUnavailable:
        return Status.QUEUED, UNKNOWN
