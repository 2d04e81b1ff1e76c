"""/v1/videos: the dialect of OpenAI's Videos API, and of the video servers that speak it."""

from typing import Annotated, Literal

from fastapi import Query, Response
from pydantic import BaseModel

from app.dialects.openai.forms import (
    ContinueFields,
    ContinueForm,
    CreateFields,
    CreateForm,
    VideoFields,
    VideoForm,
    begin,
    begin_new,
    id_in,
)
from app.dialects.openai.video_object import Video, current_video, find, poll_after_ms, video_of
from app.errors import documented
from app.estimate import UNKNOWN
from app.intake.form import FormRoute, also_json
from app.intake.source import Extension, Remix
from app.router import create_router
from app.routes.generate import ACCEPT_ERRORS
from app.services import Caller, CallerDep, RetryKey, Services, ServicesDep
from app.tasks import delete_task
from core import errors
from core.ids import ID_PATTERN

router = create_router(prefix="/v1/videos", tags=["openai"], route_class=FormRoute)

ERRORS = documented(errors.TaskNotFound, errors.InvalidParameter, errors.LedgerUnavailable)
CONTINUE_ERRORS = ACCEPT_ERRORS | documented(errors.TaskNotFound, errors.NotReady, errors.TaskGone)


class VideoList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Video]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedVideo(BaseModel):
    id: str
    deleted: Literal[True] = True
    object: Literal["video.deleted"] = "video.deleted"


@router.post("", summary="Make a video", responses=ACCEPT_ERRORS, openapi_extra=also_json(CreateForm))
def create_video(
    form: CreateFields, services: ServicesDep, caller: CallerDep, idempotency_key: RetryKey = None
) -> Video:
    """As OpenAI's client sends it, or as JSON. A picture is needed: `input_reference`, or one of its other names.
    Beside these fields each of `POST /generate` may be given."""
    task_id = begin_new(services, caller, form, idempotency_key)
    return current_video(services, *services.ledger.task_with_steps(task_id))


@router.get("", summary="List videos", responses=documented(errors.InvalidParameter, errors.LedgerUnavailable))
def list_videos(
    services: ServicesDep,
    caller: CallerDep,
    after: Annotated[str | None, Query(pattern=ID_PATTERN, description="The last video of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Literal["asc", "desc"] = "desc",
) -> VideoList:
    """All tasks of your key, whichever way they were asked for; an admin's key sees all."""
    found = services.ledger.tasks(owner=caller.sees, after=after, limit=limit + 1, oldest_first=order == "asc")
    page = found[:limit]
    steps = services.ledger.steps_of([task.task_id for task in page])
    return VideoList(
        data=[video_of(services.settings, task, steps[task.task_id], UNKNOWN) for task in page],
        first_id=page[0].task_id if page else None,
        last_id=page[-1].task_id if page else None,
        has_more=len(found) > limit,
    )


@router.post(
    "/edits",
    summary="Make a video anew from another's picture",
    responses=CONTINUE_ERRORS,
    openapi_extra=also_json(ContinueForm),
)
def edit_video(
    form: ContinueFields, services: ServicesDep, caller: CallerDep, idempotency_key: RetryKey = None
) -> Video:
    """The same as a remix. A video that is uploaded is refused: Kinora goes on from its own videos only."""
    return remixed(services, caller, id_in(form), form, idempotency_key)


@router.post(
    "/extensions",
    summary="Make a video longer",
    responses=CONTINUE_ERRORS,
    openapi_extra=also_json(ContinueForm),
)
def extend_video(
    form: ContinueFields, services: ServicesDep, caller: CallerDep, idempotency_key: RetryKey = None
) -> Video:
    """A new video: the other one, and `seconds` that go on from its last frame, by the same engine."""
    task = services.ledger.task(id_in(form), caller.sees)
    task_id = begin(services, caller, Extension(task), form, idempotency_key)
    return current_video(services, *services.ledger.task_with_steps(task_id))


@router.post(
    "/{video_id}/remix",
    summary="Make a video anew with another seed or prompt",
    responses=CONTINUE_ERRORS,
    openapi_extra=also_json(VideoForm),
)
def remix_video(
    video_id: str,
    form: VideoFields,
    services: ServicesDep,
    caller: CallerDep,
    idempotency_key: RetryKey = None,
) -> Video:
    """From the same picture. What is not given is as it was, but for the seed, which is drawn."""
    return remixed(services, caller, video_id, form, idempotency_key)


@router.get(
    "/{video_id}",
    summary="Where a video is",
    responses=ERRORS
    | {
        200: {
            "headers": {
                "openai-poll-after-ms": {"description": "When to ask again", "schema": {"type": "string"}},
            }
        }
    },
)
def retrieve_video(video_id: str, services: ServicesDep, caller: CallerDep, response: Response) -> Video:
    """One that failed is a 200 too: its `error` says why. Canceled is `failed` with the code `task_canceled`."""
    video = current_video(services, *find(services, caller, video_id))
    response.headers["openai-poll-after-ms"] = str(poll_after_ms(video.eta_seconds))
    return video


@router.delete("/{video_id}", summary="Delete a video", responses=ERRORS | documented(errors.StorageUnavailable))
def delete_video(video_id: str, services: ServicesDep, caller: CallerDep) -> DeletedVideo:
    """With its picture, and at once; one that is being made is canceled. It is in no list any more."""
    find(services, caller, video_id)
    delete_task(services, caller, video_id)
    return DeletedVideo(id=video_id)


def remixed(services: Services, caller: Caller, video_id: str, form: VideoForm, idempotency_key: str | None) -> Video:
    task = services.ledger.task(video_id, caller.sees)
    task_id = begin(services, caller, Remix(task), form, idempotency_key)
    return current_video(services, *services.ledger.task_with_steps(task_id))
