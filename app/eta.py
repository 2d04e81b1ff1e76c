"""When a task will be done, from how long such tasks took before and what stands before it."""

from dataclasses import dataclass

from app.deps import Services
from core.task import Status, Step, Task


@dataclass(frozen=True)
class Outlook:
    queue_position: int | None
    """How many steps are served before this one, itself included; None once it has started."""
    eta_seconds: float | None
    """Seconds until the end; None while nothing of the kind has been measured."""


def look_ahead(services: Services, task: Task, steps: list[Step]) -> Outlook:
    step = next((step for step in steps if not step.status.is_final), None)
    if task.status.is_final or step is None:
        return Outlook(None, None)
    means = services.ledger.means("task_running_seconds")
    own = means.get(task.engine)
    if step.status == Status.STARTED:
        return Outlook(None, None if own is None else round(own * (100 - step.progress) / 100, 1))
    ahead = services.ledger.steps_ahead(step)
    position = sum(ahead.values()) + 1
    alive = sum(worker.alive and worker.queue == step.queue for worker in services.ledger.workers())
    if own is None or not alive:
        return Outlook(position, None)
    wait = sum(count * means.get(engine, own) for engine, count in ahead.items()) / alive
    return Outlook(position, round(wait + own, 1))
