"""What a callback holds of a task that was asked for as OpenAI's API has it."""

from typing import TYPE_CHECKING, Any

from core.callbacks.endpoints import CallbackEvent, VideoEvent
from core.callbacks.payloads.kinora import Payload
from core.task import Task

if TYPE_CHECKING:
    from core.callbacks.deliveries import Delivery

NAMES = {
    CallbackEvent.FINISHED: VideoEvent.COMPLETED,
    CallbackEvent.FAILED: VideoEvent.FAILED,
    CallbackEvent.CANCELED: VideoEvent.FAILED,
}


class OpenAiPayload(Payload):
    """The video's id, and no more: whoever is told asks for the rest."""

    def event_name(self, event: CallbackEvent) -> str | None:
        return NAMES.get(event)

    def data(self, task: Task, progress: int) -> dict[str, Any]:
        return {"id": task.task_id}

    def body(self, delivery: "Delivery", task: Task, result_url: str) -> dict[str, Any]:
        event = {"id": f"evt_{delivery.delivery_id}", "object": "event", "created_at": int(delivery.created_at)}
        return event | {"type": delivery.event, "data": delivery.data}
