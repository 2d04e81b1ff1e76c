"""Ends a task from outside, and takes back what it holds."""

from app.deps import Caller, Services
from core.errors import QueueUnavailable


def cancel_task(services: Services, caller: Caller, task_id: str) -> None:
    """One that has ended stays as it is. Raises TaskNotFound."""
    services.ledger.cancel(task_id, caller.sees)
    forget(services, task_id)


def delete_task(services: Services, caller: Caller, task_id: str) -> None:
    """Cancels it where it has not ended, and deletes its files now. Raises TaskNotFound, StorageUnavailable."""
    cancel_task(services, caller, task_id)
    # What an attempt is storing just now its worker deletes, and otherwise the keeper.
    services.storage.delete_task(task_id)
    services.ledger.mark_deleted(task_id)


def forget(services: Services, task_id: str) -> None:
    """Remove the wake-ups of a task that has ended. One that stays is harmless."""
    _, steps = services.ledger.task_with_steps(task_id)
    try:
        for step in steps:
            services.queue.remove(step.step_id)
    except QueueUnavailable:
        return
