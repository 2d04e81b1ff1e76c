"""Whether a task has a result, and why not."""

from app.deps import Services
from app.estimate import estimate_task
from core.errors import NotReady, TaskGone
from core.task import Status, Task


def require_result(services: Services, task: Task) -> None:
    """Raises NotReady while the task runs, and TaskGone where there is nothing to have any more."""
    if task.error:
        raise TaskGone(task.error.message, reason=task.error.code)
    if task.status == Status.CANCELED:
        raise TaskGone("the task was canceled", reason="task_canceled")
    if task.expired_at:
        raise TaskGone("the result was deleted", reason="result_expired")
    if task.status != Status.FINISHED:
        eta = estimate_task(services, *services.ledger.task_with_steps(task.task_id)).eta_seconds
        raise NotReady(f"the task is {task.status}", retry_after=max(1, min(60, round(eta or 2))))
