"""What a caller does with a recorded task: cancel it, delete it, wait for it, ask for its result."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress

from fastapi import Request

from app.estimate import estimate_task
from app.events import SnapshotPoller
from app.middleware.slow_clients import is_ending
from app.services import Caller, Services
from core.errors import NotReady, QueueUnavailable, TaskGone, Unauthorized
from core.ledger.snapshots import Snapshot
from core.status import Status
from core.task import Task

LOOK_SECONDS = 1.0  # whether the service ends


def cancel_task(services: Services, caller: Caller, task_id: str) -> None:
    """Cancel a task; one that has ended stays as it is. Raises TaskNotFound."""
    services.ledger.cancel(task_id, caller.sees)
    remove_wakeups(services, task_id)


def delete_task(services: Services, caller: Caller, task_id: str) -> None:
    """Cancel a task that has not ended, and delete its files now. Raises TaskNotFound, StorageUnavailable."""
    cancel_task(services, caller, task_id)
    # What an attempt is storing just now its worker deletes, and otherwise the keeper.
    services.storage.delete_task(task_id)
    services.ledger.mark_deleted(task_id)


def remove_wakeups(services: Services, task_id: str) -> None:
    """Remove the wake-ups of a task that has ended. One that stays is harmless."""
    _, steps = services.ledger.task_with_steps(task_id)
    try:
        for step in steps:
            services.queue.remove(step.step_id)
    except QueueUnavailable:
        return


def require_result(services: Services, task: Task) -> None:
    """Raises NotReady while the task runs, and TaskGone if it has no result, or has it no more."""
    if task.error:
        raise TaskGone(task.error.message, reason=task.error.code)
    if task.status == Status.CANCELED:
        raise TaskGone("the task was canceled", reason="task_canceled")
    if task.expired_at:
        raise TaskGone("the result was deleted", reason="result_expired")
    if task.status != Status.FINISHED:
        eta = estimate_task(services, *services.ledger.task_with_steps(task.task_id)).eta_seconds
        raise NotReady(f"the task is {task.status}", retry_after=max(1, min(60, round(eta or 2))))


async def follow(request: Request, task_id: str, seconds: float) -> AsyncGenerator[Snapshot, None]:
    """Yield a snapshot of the task at each change and each second, until it has ended, `seconds` are over or the
    service ends. Holds no thread. Whoever leaves before must close it. Raises Unauthorized once the caller's key opens
    nothing any more."""
    poller: SnapshotPoller = request.app.state.poller
    caller: Caller = request.state.caller
    clock = asyncio.get_running_loop().time
    ends = clock() + seconds
    with poller.listen(task_id, caller) as subscription:
        while (left := ends - clock()) > 0 and not is_ending(request):
            if poller.is_closed_to(caller):
                raise Unauthorized("the key opens nothing any more")
            changed, snapshot = subscription.changed, subscription.snapshot
            if snapshot:
                yield snapshot
                if snapshot.status.is_final:
                    return
            with suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), min(left, LOOK_SECONDS))
