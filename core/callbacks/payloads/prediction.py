"""A task as Replicate shows one: in the answers of that dialect, and in its callbacks."""

from typing import Any

from core.task import Status, Task, to_iso

OWNER = "kinora"  # of the models that our engines are there
STATUS = {
    Status.QUEUED: "starting",
    Status.STARTED: "processing",
    Status.FINISHED: "succeeded",
    Status.FAILED: "failed",
    Status.CANCELED: "canceled",
}


def prediction_of(task: Task, progress: int | None = None) -> dict[str, Any]:
    """But for where its parts are, which `located` adds."""
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
    """`base` is where this service is."""
    is_there = prediction["status"] == "succeeded" and not prediction["data_removed"]
    here = f"{base}/v1/predictions/{prediction['id']}"
    urls = {"get": here, "cancel": f"{here}/cancel"}
    return prediction | {"output": result_url if is_there else None, "urls": urls}


def bar(percent: int) -> str:
    """As tqdm draws it: clients read `prediction.progress` from the last such line."""
    return f"{percent}%|{'█' * (percent // 10):10}| {percent}/100"
