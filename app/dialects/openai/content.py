"""What was made: GET /v1/videos/{video_id}/content, and POST /v1/videos/sync for those who wait for it."""

from contextlib import aclosing
from typing import Literal

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from app.dialects.openai.forms import CreateFields, CreateForm, begin_new
from app.dialects.openai.video_object import find
from app.downloads import artifact_response
from app.errors import documented
from app.intake.form import FormRoute, also_json
from app.router import create_router
from app.routes.generate import ACCEPT_ERRORS
from app.routes.results import ERRORS, REDIRECT
from app.services import Caller, CallerDep, RetryKey, Services, ServicesDep
from app.tasks import follow
from core import errors

router = create_router(prefix="/v1/videos", tags=["openai"], route_class=FormRoute)

SYNC_SECONDS = 600.0  # as long as OpenAI's client waits for an answer
SECONDS = {"description": "From its start to its end, in seconds", "schema": {"type": "string"}}
CLIENT_LEFT = 499  # which nobody reads: nginx's word for it, in the log

KINDS = {"video": ("mp4", "video/mp4"), "thumbnail": ("jpg", "image/jpeg"), "spritesheet": ("jpg", "image/jpeg")}


@router.get(
    "/{video_id}/content",
    summary="Download a video",
    response_class=Response,
    responses=ERRORS
    | REDIRECT
    | {
        200: {"content": {"video/mp4": {}, "image/jpeg": {}}},
        206: {"description": "The range that was asked for"},
        304: {"description": "The copy is still good"},
    },
)
def video_content(
    video_id: str,
    request: Request,
    services: ServicesDep,
    caller: CallerDep,
    variant: Literal["video", "thumbnail", "spritesheet"] = "video",
) -> Response:
    """The MP4, its first frame, or a `spritesheet`: up to 25 frames, evenly spaced, the first and the last among them,
    row by row and five in a row, each at most 256 pixels on its longer side."""
    find(services, caller, video_id)
    return artifact_response(services, caller, request, video_id, variant, *KINDS[variant])


@router.post(
    "/sync",
    summary="Make a video, and wait for it",
    response_class=Response,
    responses=ACCEPT_ERRORS
    | documented(errors.ArtifactNotFound, errors.NotReady, errors.TaskGone)
    | {200: {"content": {"video/mp4": {}}, "headers": {"X-Inference-Time-S": SECONDS}}},
    openapi_extra=also_json(CreateForm),
)
async def make_video(
    request: Request,
    form: CreateFields,
    services: ServicesDep,
    caller: CallerDep,
    idempotency_key: RetryKey = None,
) -> Response:
    """As vLLM-Omni has it: the answer is the MP4. The task is one like any other, and goes on if the client leaves,
    ten minutes are over or the service ends (409): sent again with the same `Idempotency-Key`, the request waits for
    the same task."""
    with services.waiting.slot(caller.owner):
        task_id = await run_in_threadpool(begin_new, services, caller, form, idempotency_key)
        request.state.upload.close()  # its place is for others while this one waits
        async with aclosing(follow(request, task_id, SYNC_SECONDS)) as snapshots:
            async for _ in snapshots:
                if await request.is_disconnected():
                    return Response(status_code=CLIENT_LEFT)
    return await run_in_threadpool(finished_video, services, caller, request, task_id)


def finished_video(services: Services, caller: Caller, request: Request, task_id: str) -> Response:
    """The video as an answer. Raises TaskGone, and NotReady with the id if it is to be asked for later."""
    task = services.ledger.task(task_id)
    if not task.status.is_final:
        message = f"the task {task_id} goes on: ask for /v1/videos/{task_id}/content later"
        raise errors.NotReady(message, retry_after=60)
    answer = artifact_response(services, caller, request, task_id, "video", "mp4", "video/mp4")
    answer.headers["X-Inference-Time-S"] = f"{(task.finished_at or 0) - (task.started_at or 0):.3f}"
    return answer
