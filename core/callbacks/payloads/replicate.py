"""A task as Replicate shows one: in the answers of that dialect, and in its callbacks."""

from typing import TYPE_CHECKING, Any

from core.callbacks.payloads.kinora import Payload
from core.status import Status
from core.task import Task, to_iso

if TYPE_CHECKING:
    from core.callbacks.deliveries import Delivery

OWNER = "kinora"  # of the models that our engines are there
STATUS = {
    Status.QUEUED: "starting",
    Status.STARTED: "processing",
    Status.FINISHED: "succeeded",
    Status.FAILED: "failed",
    Status.CANCELED: "canceled",
}


class ReplicatePayload(Payload):
    """The prediction, for the task's own `callback_url`; for an endpoint of the owner's what any task tells."""

    def data(self, task: Task, progress: int) -> dict[str, Any]:
        # A task tells up to twelve events at each of 21 places. Its prompt stands once, at the task: `body` adds it.
        without = {name: value for name, value in task.params.items() if name != "prompt"}
        return {"prediction": prediction_of(task, progress) | {"input": without}} | super().data(task, progress)

    def body(self, delivery: "Delivery", task: Task, result_url: str) -> dict[str, Any]:
        if delivery.endpoint_id is None:
            base, _, _ = result_url.rpartition("/results/")
            return located(delivery.data["prediction"] | {"input": task.params}, base, result_url)
        body = super().body(delivery, task, result_url)
        del body["data"]["prediction"]
        return body


def prediction_of(task: Task, progress: int | None = None) -> dict[str, Any]:
    """Return the prediction, but for where its parts are, which `located` adds."""
    ran = task.finished_at - task.started_at if task.finished_at and task.started_at else None
    return {
        "id": task.task_id,
        "model": f"{OWNER}/{task.engine}",
        "version": task.engine,
        "status": STATUS[task.status],
        "input": task.params,
        "error": f"{task.error.code}: {task.error.message}" if task.error else None,
        "logs": "\n".join(task.warnings if progress is None else [*task.warnings, bar(progress)]),
        "metrics": {} if ran is None else {"predict_time": ran},
        "created_at": to_iso(task.created_at),
        "started_at": to_iso(task.started_at),
        "completed_at": to_iso(task.finished_at),
        "data_removed": task.expired_at is not None,
        "source": "api",
    }


def located(prediction: dict[str, Any], base: str, result_url: str) -> dict[str, Any]:
    """Return `prediction` with its URLs; `base` is where this service is."""
    is_there = prediction["status"] == "succeeded" and not prediction["data_removed"]
    here = f"{base}/v1/predictions/{prediction['id']}"
    urls = {"get": here, "cancel": f"{here}/cancel"}
    return prediction | {"output": result_url if is_there else None, "urls": urls}


def bar(percent: int) -> str:
    """As tqdm draws it: clients read `prediction.progress` from the last such line."""
    return f"{percent}%|{'█' * (percent // 10):10}| {percent}/100"
