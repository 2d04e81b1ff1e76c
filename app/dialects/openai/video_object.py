"""A task as OpenAI's Video object."""

from typing import Literal

from pydantic import BaseModel, Field

from app.estimate import Estimate, estimate_task
from app.routes.status import TaskError, task_error
from app.services import Caller, Services
from core import errors
from core.config.settings import Settings
from core.requests.clip import Clip
from core.status import Status
from core.task import Step, Task, progress_of

# The client keeps to the first answer it gets, so it is a tenth of what is left then.
POLL_SECONDS, SHORTEST_POLL, LONGEST_POLL = 1.0, 0.25, 10.0
STATUS = {
    Status.QUEUED: "queued",
    Status.STARTED: "in_progress",
    Status.FINISHED: "completed",
    Status.FAILED: "failed",
    Status.CANCELED: "failed",
}


class Video(BaseModel):
    id: str = Field(examples=["01a1fd3450027302a9e88e163fd55fdb"])
    object: Literal["video"] = "video"
    status: Literal["queued", "in_progress", "completed", "failed"]
    progress: int = Field(ge=0, le=100)
    created_at: int = Field(description="In seconds since 1970, as all its times")
    completed_at: int | None
    expires_at: int | None = Field(description="Until when it can be downloaded")
    model: str = Field(description="The engine that makes it", examples=["svd-xt"])
    prompt: str | None
    seconds: str = Field(description="How long it plays; an extension, with what it goes on from", examples=["4"])
    size: str = Field(examples=["1024x576"])
    remixed_from_video_id: str | None
    extended_from_video_id: str | None
    error: TaskError | None
    queue_position: int | None = Field(description="1 is next; null once it has started, and in lists")
    eta_seconds: float | None = Field(description="Until the end; null if it is not known, and in lists")
    seed: int
    warnings: list[str]


def find(services: Services, caller: Caller, video_id: str) -> tuple[Task, list[Step]]:
    """Raises TaskNotFound, for one that was deleted too."""
    task, steps = services.ledger.task_with_steps(video_id, caller.sees)
    if task.deleted_at is not None:
        raise errors.TaskNotFound(f"the video {video_id!r} was deleted", param="video_id")
    return task, steps


def current_video(services: Services, task: Task, steps: list[Step]) -> Video:
    return video_of(services.settings, task, steps, estimate_task(services, task, steps))


def video_of(settings: Settings, task: Task, steps: list[Step], estimate: Estimate) -> Video:
    clip = Clip.model_validate(task.params)
    completed_at = int(task.finished_at) if task.finished_at and task.status == Status.FINISHED else None
    return Video(
        id=task.task_id,
        status=STATUS[task.status],
        progress=progress_of(steps),
        created_at=int(task.created_at),
        completed_at=completed_at,
        expires_at=completed_at and int(completed_at + settings.result_ttl),
        model=task.engine,
        prompt=clip.prompt,
        seconds=f"{round(clip.seconds_in_all, 2):g}",
        size=f"{clip.width}x{clip.height}",
        remixed_from_video_id=task.remixed_from,
        extended_from_video_id=task.extended_from,
        error=error_of(task),
        queue_position=estimate.queue_position,
        eta_seconds=estimate.eta_seconds,
        seed=clip.seed,
        warnings=task.warnings,
    )


def error_of(task: Task) -> TaskError | None:
    if task.status == Status.CANCELED:
        return TaskError(code="task_canceled", message="the task was canceled")
    return task_error(task.error) if task.error else None


def poll_after_ms(eta_seconds: float | None) -> int:
    seconds = POLL_SECONDS if eta_seconds is None else min(LONGEST_POLL, max(SHORTEST_POLL, eta_seconds / 10))
    return round(1000 * seconds)
