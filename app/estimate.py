"""When a task will be done, from how long such steps took before, what stands before it, and who is there to work."""

import statistics
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from app.queue_simulation import Forecast, Simulation
from core.errors import LedgerUnavailable
from core.ledger.durations import StepDuration, StepDurations, profile_of
from core.ledger.moves import Ledger
from core.ledger.reads import OpenStep
from core.ledger.workers import Worker
from core.status import Status
from core.task import Step, Task

if TYPE_CHECKING:
    from app.services import Services

# To play a thousand steps forward takes some ten milliseconds: then one forecast serves whoever asks for a while.
MANY, KEPT_SECONDS = 100, 0.5
UNMEASURED = StepDuration(1.0, 0.0)
"""Of steps of which nothing is known, so that places in the queue can be told."""


@dataclass(frozen=True)
class Estimate:
    queue_position: int | None
    """How many steps of its queue are served before this one, itself included; None once it has started."""
    eta_seconds: float | None
    """Seconds until the end; None while nothing of the kind has been measured, nobody is there to do it, or a step has
    yet to plan others."""


UNKNOWN = Estimate(None, None)


@dataclass(frozen=True)
class QueueForecast:
    """All open steps played forward, and what that was made from."""

    forecast: Forecast
    durations: StepDurations
    workers: list[Worker]
    step_ids: frozenset[str]
    made_at: float = field(default_factory=time.monotonic)

    @property
    def age(self) -> float:
        return time.monotonic() - self.made_at


class QueueForecasts:
    """The newest forecast of a process."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._newest: QueueForecast | None = None
        self._lock = threading.Lock()

    def newest(self, step_ids: Iterable[str]) -> QueueForecast:
        """Return a forecast that has these steps, if they are open. Raises LedgerUnavailable."""
        with self._lock:
            kept = self._newest
            if not kept or len(kept.step_ids) < MANY or kept.age > KEPT_SECONDS or not kept.step_ids >= set(step_ids):
                kept = self._newest = forecast_queues(self.ledger)
            return kept


def forecast_queues(ledger: Ledger) -> QueueForecast:
    known, workers, steps = ledger.step_durations(), ledger.workers(), ledger.open_steps()
    measured = {step.step_id: known.of(step.profile) for step in steps}
    seconds = [found.seconds for found in measured.values() if found]
    # Of a step that was never measured as long as others take.
    otherwise = StepDuration(statistics.median(seconds), 0.0) if seconds else UNMEASURED
    durations = {step_id: found or otherwise for step_id, found in measured.items()}
    forecast = Simulation(steps, durations, serving(steps, workers)).run()
    return QueueForecast(forecast, known, workers, frozenset(durations))


def estimate_task(services: "Services", task: Task, steps: list[Step]) -> Estimate:
    """Return the place of the task's next step in its queue, and when its last step will be done."""
    left = [step for step in steps if not step.status.is_final]
    if task.status.is_final or not left:
        return UNKNOWN
    found = services.forecasts.newest(step.step_id for step in left)
    forecast, waiting = found.forecast, [step for step in left if step.status == Status.QUEUED]
    ready = [forecast.served.get(step.step_id, 1) for step in waiting if not step.waits_for]
    position = min(ready, default=None) if len(waiting) == len(left) else None
    is_measured = all(found.durations.of(profile_of(step)) for step in left)
    is_served = all(any(worker.serves(step.queue) for worker in found.workers) for step in waiting)
    is_planned = not any(step.reserved_weight for step in left)
    if not (is_measured and is_served and is_planned):
        return Estimate(position, None)
    ends = max(forecast.ends.get(step.step_id, 0.0) for step in left)
    return Estimate(position, round(max(0.0, ends - found.age), 2))


def serving(steps: list[OpenStep], workers: list[Worker]) -> dict[str, dict[str, int]]:
    """Return the workers of each queue in which a step waits or runs, and how many steps each does at a time; somebody,
    if nobody serves a queue, so that places in it can be told."""
    queues = {step.queue for step in steps}
    found = {queue: {each.worker_id: each.at_once for each in workers if each.serves(queue)} for queue in queues}
    return {queue: serve or {f"nobody serves {queue}": 1} for queue, serve in found.items()}


def estimate_accepted(services: "Services", task_id: str) -> tuple[Status, Estimate]:
    """Return the status and estimate of a task just accepted; UNKNOWN if the ledger is away by now: the task is
    safe."""
    try:
        task, steps = services.ledger.task_with_steps(task_id)
        return task.status, estimate_task(services, task, steps)
    except LedgerUnavailable:
        return Status.QUEUED, UNKNOWN
