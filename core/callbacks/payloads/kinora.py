"""What a callback holds, as Standard Webhooks has it."""

from typing import TYPE_CHECKING, Any

from core.callbacks.endpoints import CallbackEvent
from core.task import Task, to_iso

if TYPE_CHECKING:
    from core.callbacks.deliveries import Delivery


class Payload:
    """What is told of a task that was asked for in a dialect, of those below the one that is Kinora's own."""

    def event_name(self, event: CallbackEvent) -> str | None:
        """Return what the event is called; None: it is not told."""
        return event

    def data(self, task: Task, progress: int) -> dict[str, Any]:
        """Return what is recorded with the event. `task` is as it is after the event, `progress` from 0 to 100."""
        return {
            "task_id": task.task_id,
            "status": task.status,
            "progress": progress,
            "engine": task.engine,
            "created_at": to_iso(task.created_at),
            "started_at": to_iso(task.started_at),
            "finished_at": to_iso(task.finished_at),
            "error": task.error and vars(task.error),
            "warnings": task.warnings,
        }

    def body(self, delivery: "Delivery", task: Task, result_url: str) -> dict[str, Any]:
        """Return what is sent, as JSON. `task` is the delivery's, as it is now."""
        data = delivery.data | {"result_url": result_url}
        return {"type": delivery.event, "timestamp": to_iso(delivery.created_at), "data": data}
