"""GET /status/{task_id}, POST /cancel/{task_id}, GET /tasks, DELETE /tasks/{task_id}: what became of a task."""

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Query
from pydantic import BaseModel, Field

from app.errors import documented
from app.estimate import estimate_task
from app.intake.retry import retry_task
from app.router import create_router
from app.routes.generate import ACCEPT_ERRORS, Accepted, accepted
from app.services import CallerDep, Links, LinksDep, Services, ServicesDep
from app.tasks import cancel_task, delete_task
from core import errors
from core.ids import ID_PATTERN
from core.ledger.snapshots import RunningStep
from core.status import Status
from core.task import ErrorInfo, Step, Task, progress_of

router = create_router(tags=["tasks"])

STORAGE_ERRORS = documented(errors.LedgerUnavailable, errors.StorageUnavailable)
ENDED = documented(errors.TaskNotFound, errors.NotReady, errors.TaskGone)
ERRORS = documented(errors.TaskNotFound, errors.InvalidParameter, errors.LedgerUnavailable)


class TaskError(BaseModel):
    code: str = Field(examples=["gpu_out_of_memory"])
    message: str


class CurrentStep(BaseModel):
    verb: str = Field(examples=["clip"])
    phase: str | None = Field(
        description="load, encode_image, denoise, decode, render, encode_video, smooth, join or store"
    )
    number: Annotated[int, Field(description="Which of the task's steps this is, from 1")]
    of: int
    attempt: int


class TaskSummary(BaseModel):
    task_id: str = Field(examples=["01a1fd3450027302a9e88e163fd55fdb"])
    owner: str = Field(description="The id of the key that made it; empty if no key was asked for")
    status: Status = Field(examples=["started"])
    engine: str = Field(examples=["svd-xt"])
    approximate: bool = Field(description="Made with `profile=fast`: near the exact clip of its seed, not the same")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    error: TaskError | None
    result_url: str | None = Field(description="Where the video is; null while there is none")
    thumbnail_url: str | None = Field(description="Where its first frame is")


class TaskStatus(TaskSummary):
    progress: int = Field(ge=0, le=100, examples=[42])
    step: CurrentStep | None = Field(description="The step that runs now")
    queue_position: int | None = Field(description="1 is next; null once it has started")
    eta_seconds: float | None = Field(description="Until the end; null while nothing tells how long it will take")
    params: dict[str, Any] = Field(
        description="Every parameter, with the engine's defaults and the seed filled in",
        examples=[{"engine": "svd-xt", "width": 1024, "height": 576, "num_frames": 25, "fps": 7, "seed": 7}],
    )
    warnings: list[str]
    receipt: dict[str, Any] | None = Field(description="What is needed to make the clip again")


class TaskPage(BaseModel):
    tasks: list[TaskSummary]
    next_after: str | None = Field(description="Give it as `after` for the next page; null on the last one")


@router.get("/status/{task_id}", summary="Where a task is", responses=ERRORS)
def status(task_id: str, services: ServicesDep, caller: CallerDep, links: LinksDep) -> TaskStatus:
    """How far it is, what runs now, when it will be done, and how it ended."""
    return task_status(services, links, *services.ledger.task_with_steps(task_id, caller.sees))


@router.post("/cancel/{task_id}", summary="End a task", responses=ERRORS)
def cancel(task_id: str, services: ServicesDep, caller: CallerDep, links: LinksDep) -> TaskStatus:
    """A task that has ended stays as it is: doing this twice is no error."""
    cancel_task(services, caller, task_id)
    return task_status(services, links, *services.ledger.task_with_steps(task_id))


@router.get("/tasks", summary="List tasks", responses=documented(errors.InvalidParameter, errors.LedgerUnavailable))
def tasks(
    services: ServicesDep,
    caller: CallerDep,
    links: LinksDep,
    status: Annotated[Status | None, Query(description="Only those in this state")] = None,
    after: Annotated[str | None, Query(pattern=ID_PATTERN, description="The last task of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> TaskPage:
    """Those of your key, an admin's key all; newest first, page by page."""
    found = services.ledger.tasks(owner=caller.sees, status=status, after=after, limit=limit + 1)
    page = found[:limit]
    return TaskPage(
        tasks=[TaskSummary(**summarize(task, links)) for task in page],
        next_after=page[-1].task_id if len(found) > limit else None,
    )


@router.delete("/tasks/{task_id}", summary="Delete a task's files", responses=ERRORS | STORAGE_ERRORS)
def delete(task_id: str, services: ServicesDep, caller: CallerDep, links: LinksDep) -> TaskStatus:
    """Cancels the task if it has not ended, and deletes its picture and its video now. The record of it stays."""
    delete_task(services, caller, task_id)
    return task_status(services, links, *services.ledger.task_with_steps(task_id))


@router.post("/tasks/{task_id}/retry", status_code=202, summary="Make a task again", responses=ACCEPT_ERRORS | ENDED)
def retry(task_id: str, services: ServicesDep, caller: CallerDep, links: LinksDep) -> Accepted:
    """A new task with the same parameters, for one that has ended. Of its steps those that had finished stand finished,
    if what they made is still there and undamaged."""
    return accepted(services, caller, links, retry_task(services, caller, task_id))


def task_status(services: Services, links: Links, task: Task, steps: list[Step]) -> TaskStatus:
    running = next((step for step in steps if step.status == Status.STARTED), None)
    estimate = estimate_task(services, task, steps)
    return TaskStatus(
        **summarize(task, links),
        progress=progress_of(steps),
        step=running and current_step(running, of=len(steps)),
        queue_position=estimate.queue_position,
        eta_seconds=estimate.eta_seconds,
        params=task.params,
        warnings=task.warnings,
        receipt=receipt_of(task),
    )


def receipt_of(task: Task) -> dict[str, Any] | None:
    """Return the receipt with the prompt among its parameters, where it was given: the ledger has it once."""
    if task.receipt is None or "prompt" not in task.params:
        return task.receipt
    return task.receipt | {"parameters": task.receipt.get("parameters", {}) | {"prompt": task.params["prompt"]}}


def current_step(running: Step | RunningStep, of: int) -> CurrentStep:
    number = running.position + 1
    return CurrentStep(verb=running.kind, phase=running.phase, number=number, of=of, attempt=running.attempt)


def task_error(error: ErrorInfo) -> TaskError:
    return TaskError(code=error.code, message=error.message)


def summarize(task: Task, links: Links) -> dict[str, Any]:
    is_there = task.status == Status.FINISHED and not task.expired_at
    return {
        "task_id": task.task_id,
        "owner": task.owner,
        "status": task.status,
        "engine": task.engine,
        "approximate": task.params.get("profile") == "fast",
        "created_at": to_datetime(task.created_at),
        "started_at": to_datetime(task.started_at),
        "finished_at": to_datetime(task.finished_at),
        "error": task.error and task_error(task.error),
        "result_url": links.result(task.task_id, task.owner) if is_there else None,
        "thumbnail_url": links.result(task.task_id, task.owner, "/thumbnail") if is_there else None,
    }


def to_datetime(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
