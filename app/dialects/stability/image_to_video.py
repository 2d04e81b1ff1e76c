"""Stability AI's API v2beta, image-to-video: the one whose model Stable Video Diffusion was."""

from typing import Annotated, Any, Literal

from fastapi import Form, Header, Request, UploadFile
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from app.base64_json import json_with_base64
from app.downloads import artifact_response
from app.errors import documented
from app.intake.accept import accept
from app.intake.form import FormRoute, without_null
from app.intake.source import Sizing, uploaded
from app.intake.submission import Submission
from app.router import create_router
from app.routes.generate import ACCEPT_ERRORS
from app.services import CallerDep, RetryKey, Services, ServicesDep
from app.tasks import require_result
from core import errors
from core.errors import InvalidParameter
from core.requests.clip import ClipRequest
from core.task import Dialect, Task

SIZES = ((1024, 576), (576, 1024), (768, 768))

router = create_router(tags=["stability"], route_class=FormRoute)


class ImageToVideoForm(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, json_schema_extra=without_null)

    image: Annotated[UploadFile | None, Field(description="The picture, of 1024×576, 576×1024 or 768×768")] = None
    seed: Annotated[int, Field(ge=0, le=2**32 - 2, description="0: drawn")] = 0
    # Theirs began at 0. Below 1 there is no guidance to weaken: the clip would be another than what was asked for.
    cfg_scale: Annotated[float, Field(ge=1, le=10, description="Guidance at the last frame")] = 1.8
    motion_bucket_id: Annotated[int, Field(ge=1, le=255)] = 127


class Generation(BaseModel):
    id: str = Field(examples=["01a1fd3450027302a9e88e163fd55fdb"])


class InProgress(Generation):
    status: Literal["in-progress"] = "in-progress"


@router.post(
    "/v2beta/image-to-video",
    summary="Make a clip as Stability's API did",
    responses=ACCEPT_ERRORS,
)
def image_to_video(
    form: Annotated[ImageToVideoForm, Form(media_type="multipart/form-data")],
    services: ServicesDep,
    caller: CallerDep,
    idempotency_key: RetryKey = None,
) -> Generation:
    """The clip has the size of the picture. Everything that Stability's API had no name for comes from the engine's
    entry (`GET /engines`)."""
    picture = uploaded(form.image, services.settings, "image")
    asked = request_of(form)
    submission = Submission(
        picture,
        asked,
        idempotency_key,
        dialect=Dialect.STABILITY,
        names={"max_guidance_scale": "cfg_scale"},
        sizing=Sizing("as the picture", lambda size: asked.model_copy(update=check_size(size))),
    )
    return Generation(id=accept(services, caller, submission))


@router.get(
    "/v2beta/image-to-video/result/{task_id}",
    summary="Download as from Stability's API",
    response_class=Response,
    responses=documented(
        errors.TaskNotFound,
        errors.InvalidParameter,
        errors.ArtifactNotFound,
        errors.PreconditionFailed,
        errors.RangeNotSatisfiable,
        errors.TaskGone,
        errors.LedgerUnavailable,
        errors.StorageUnavailable,
    )
    | {
        200: {"content": {"video/mp4": {}, "application/json": {}}, "description": "The MP4, or it in base64"},
        202: {"model": InProgress, "description": "The task has not ended: ask again"},
        206: {"description": "The range that was asked for"},
        304: {"description": "The copy is still good"},
        307: {"description": "With `RESULT_REDIRECT`: the object store has it"},
    },
)
def image_to_video_result(
    task_id: str,
    request: Request,
    services: ServicesDep,
    caller: CallerDep,
    accept: Annotated[str, Header(description="`application/json` for base64; else the MP4")] = "video/*",
) -> Response:
    """202 while it is made; then the MP4, with its seed as a header."""
    task = services.ledger.task(task_id, caller.sees)
    if not task.status.is_final:
        return JSONResponse(InProgress(id=task_id).model_dump(), 202)
    accept = accept.lower()
    if "application/json" in accept and "video/" not in accept:
        answer = as_json(services, task)
    else:
        answer = artifact_response(services, caller, request, task_id, "video", "mp4", "video/mp4")
        answer.headers.update({"finish-reason": "SUCCESS", "seed": str(task.params["seed"])})
    answer.headers["Vary"] = "Accept"
    return answer


def request_of(form: ImageToVideoForm) -> ClipRequest:
    return ClipRequest(
        seed=form.seed or None, max_guidance_scale=form.cfg_scale, motion_bucket_id=form.motion_bucket_id
    )


def check_size(size: tuple[int, int]) -> dict[str, int]:
    """The clip's size: the picture's own. Raises InvalidParameter."""
    if size not in SIZES:
        allowed = ", ".join(f"{width}×{height}" for width, height in SIZES)
        raise InvalidParameter(f"image must be one of {allowed}; got {size[0]}×{size[1]}", param="image")
    return {"width": size[0], "height": size[1]}


def as_json(services: Services, task: Task) -> Response:
    require_result(services, task)
    key = services.ledger.artifacts(task.task_id)["video"].key
    parts = services.storage.stream(key, 0, services.storage.size(key))
    said: dict[str, Any] = {"finish_reason": "SUCCESS", "seed": task.params["seed"]}
    return StreamingResponse(
        json_with_base64(lambda data: {"video": data} | said, parts), media_type="application/json"
    )
