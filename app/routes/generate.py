"""POST /generate: a picture in, a task id out."""

from typing import Annotated

from fastapi import Form, UploadFile
from pydantic import BaseModel, ConfigDict, Field

from app.errors import documented
from app.estimate import estimate_accepted
from app.intake.accept import accept
from app.intake.form import FormRoute, PictureText, also_json, exactly_one, without_null
from app.intake.source import PictureUrl, SentPicture, uploaded
from app.intake.submission import Submission
from app.router import create_router
from app.services import Caller, CallerDep, Links, LinksDep, RetryKey, Services, ServicesDep
from core import errors
from core.callbacks.endpoints import FINAL_EVENTS, CallbackEvent
from core.config.settings import Settings
from core.requests.clip import ClipRequest
from core.status import Status
from core.task import Callback

router = create_router(tags=["tasks"], route_class=FormRoute)


class GenerateForm(ClipRequest):
    model_config = ConfigDict(json_schema_extra=without_null)

    file: Annotated[UploadFile | None, Field(description="The picture: JPEG, PNG, WebP, AVIF, HEIC, GIF or BMP")] = None
    image: Annotated[UploadFile | None, Field(description="Another name for `file`")] = None
    image_url: Annotated[PictureText | None, Field(description="Where to fetch the picture from, or a `data:` URL")] = (
        None
    )
    callback_url: Annotated[str | None, Field(description="Where to tell how this task ended")] = None
    callback_events: Annotated[
        list[CallbackEvent] | None, Field(description="What to tell `callback_url`; without it, how the task ended")
    ] = None
    reuse: Annotated[
        bool | None, Field(description="Take what the same request of yours has made before, if it is still there")
    ] = None


class Accepted(BaseModel):
    task_id: str = Field(examples=["01a1fd3450027302a9e88e163fd55fdb"])
    status: Status = Field(description="Another than `queued` if an `Idempotency-Key` found an earlier task")
    queue_position: int | None = Field(description="1 is next", examples=[3])
    eta_seconds: float | None = Field(description="Until the end; null while nothing tells how long it will take")
    status_url: str = Field(examples=["http://127.0.0.1:8000/status/01a1fd3450027302a9e88e163fd55fdb"])
    result_url: str = Field(
        description="Where keys are asked for it is signed: for a while it opens without one",
        examples=["http://127.0.0.1:8000/results/01a1fd3450027302a9e88e163fd55fdb"],
    )


# Where the task's id leads: for those who read the OpenAPI document with a program.
LINKS = {
    name: {"operationId": name, "parameters": {"task_id": "$response.body#/task_id"}}
    for name in ("status", "cancel", "video", "thumbnail", "delete")
}


ACCEPT_ERRORS = documented(
    errors.InvalidParameter,
    errors.DestinationForbidden,
    errors.FetchFailed,
    errors.IdempotencyMismatch,
    errors.FileMissing,
    errors.UploadTooLarge,
    errors.ImageUnsupported,
    errors.ImageUnreadable,
    errors.ImageTooLarge,
    errors.ImageTooSmall,
    errors.QueueFull,
    errors.QuotaExceeded,
    errors.StorageFull,
    errors.EngineUnavailable,
    errors.LedgerUnavailable,
    errors.StorageUnavailable,
)


@router.post(
    "/generate",
    status_code=202,
    summary="Make a clip from a picture",
    responses=ACCEPT_ERRORS | {202: {"links": LINKS}},
    openapi_extra=also_json(GenerateForm),
)
def generate(
    form: Annotated[GenerateForm, Form(media_type="multipart/form-data")],
    services: ServicesDep,
    caller: CallerDep,
    links: LinksDep,
    idempotency_key: RetryKey = None,
) -> Accepted:
    """Answers as soon as the picture is stored and the task recorded. What is not given comes from the engine's
    entry (`GET /engines`); a value out of range is refused, never changed. With an `Idempotency-Key`, a
    request sent again within a day gives the task that it made first."""
    asked = ClipRequest(**form.model_dump(include=set(ClipRequest.model_fields), exclude_none=True))
    source, reuse = _source(form, services.settings), bool(form.reuse)
    submission = Submission(source, asked, idempotency_key, _callback(form), reuse=reuse)
    task_id = accept(services, caller, submission)
    return accepted(services, caller, links, task_id)


def accepted(services: Services, caller: Caller, links: Links, task_id: str) -> Accepted:
    status, estimate = estimate_accepted(services, task_id)
    return Accepted(
        task_id=task_id,
        status=status,
        queue_position=estimate.queue_position,
        eta_seconds=estimate.eta_seconds,
        status_url=links.status(task_id),
        result_url=links.result(task_id, caller.owner),
    )


def _callback(form: GenerateForm) -> Callback | None:
    if form.callback_url:
        return Callback(form.callback_url, list(form.callback_events or FINAL_EVENTS))
    if form.callback_events:
        raise errors.InvalidParameter("callback_events says nothing without callback_url", param="callback_events")
    return None


def _source(form: GenerateForm, settings: Settings) -> SentPicture | PictureUrl:
    name = exactly_one(form, "file", "image", "image_url") or "file"
    return uploaded(getattr(form, name), settings, name)
