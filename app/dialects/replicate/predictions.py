"""Replicate's HTTP API, as far as its clients need it to run a model that makes a video out of a picture."""

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, suppress
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, BinaryIO, Literal

from fastapi import Header, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool

from app.errors import documented
from app.intake.accept import accept
from app.intake.source import TEXT_RULE, PictureUrl, SentPicture, Sizing, read_text
from app.intake.submission import Submission
from app.router import create_router
from app.routes import status
from app.routes.generate import ACCEPT_ERRORS
from app.services import Caller, CallerDep, Links, LinksDep, RetryKey, Services, ServicesDep
from app.tasks import follow
from app.validation import invalid_parameter
from core import errors
from core.callbacks.endpoints import FINAL_EVENTS, CallbackEvent
from core.callbacks.payloads.replicate import OWNER, located, prediction_of
from core.config.settings import Settings
from core.engines.known import known_engines
from core.errors import FileMissing, InvalidParameter, LedgerUnavailable, QueueFull, Unauthorized
from core.outbound import check_outbound_url
from core.requests.clip import ClipRequest
from core.shown import shown
from core.task import Callback, Dialect, Step, Task, progress_of

# The public models that Stable Video Diffusion is, and those of their versions that code out there names.
PUBLIC_MODELS = {
    "stability-ai/stable-video-diffusion": "3f0457e4619daac51203dedb472816fd4af51f3149fa7a9e0b5ffcf1b8172438",
    "christophy/stable-video-diffusion": "92a0c9a9cb1fd93ea0361d15e499dc879b35095077b2feed47315ccab4524036",
}

PICTURES = ("input_image", "image")
# Theirs → ours; what has no other name has ours.
NAMES = {"frames_per_second": "fps", "cond_aug": "noise_aug_strength", "decoding_t": "decode_chunk_size"}
FRAMES = {"14_frames_with_svd": 14, "25_frames_with_svd_xt": 25}
SIZINGS = ("maintain_aspect_ratio", "crop_to_16_9", "use_image_dimensions")
DEFAULTS = {"video_length": "14_frames_with_svd", "sizing_strategy": SIZINGS[0], "frames_per_second": 6}
WIDTH, HEIGHT, MULTIPLE = 1024, 576, 64

EVENTS = {
    "start": [CallbackEvent.STARTED],
    "output": [CallbackEvent.FINISHED],
    "logs": [CallbackEvent.PROGRESS],
    "completed": FINAL_EVENTS,
}
PAGE = 100
MOST_SECONDS = 60.0

router = create_router(tags=["replicate"])


class NewPrediction(BaseModel):
    model_config = ConfigDict(extra="forbid")

    input: dict[str, Any]
    version: Annotated[str | None, Field(description="A version of a public SVD model, or an engine's name")] = None
    model: Annotated[str | None, Field(description="In the place of `version`: owner/name, or an engine's name")] = None
    webhook: Annotated[str | None, Field(description="Where the prediction is posted as it goes on")] = None
    webhook_events_filter: Annotated[
        list[Literal["start", "output", "logs", "completed"]] | None,
        Field(min_length=1, max_length=4, description="When; without it, at all of them"),
    ] = None
    webhook_completed: Annotated[
        str | None, Field(description="In the place of `webhook`: where it is posted when it is completed")
    ] = None
    stream: Annotated[bool | None, Field(description="Not made here: `false` is accepted")] = None


class Urls(BaseModel):
    get: str
    cancel: str


class Prediction(BaseModel):
    id: str
    model: str = Field("", description="The engine: `kinora/` and its name")
    version: str = Field("", description="The engine's name")
    status: Literal["starting", "processing", "succeeded", "failed", "canceled"]
    input: dict[str, Any] = Field({}, description="Every parameter that was settled, by our names")
    output: str | None = Field(None, description="Where the MP4 is; signed if keys are asked for")
    error: str | None = None
    logs: str = Field("", description="The task's warnings, and how far it is")
    metrics: dict[str, float] = {}
    created_at: datetime
    started_at: datetime | None = None
    completed_at: datetime | None = None
    data_removed: bool = False
    source: Literal["api"] = "api"
    urls: Urls


class PredictionPage(BaseModel):
    previous: str | None
    next: str | None
    results: list[Prediction]


class SigningSecret(BaseModel):
    key: str


ERRORS = documented(errors.TaskNotFound, errors.InvalidParameter, errors.LedgerUnavailable)
CREATED: dict[int | str, dict[str, Any]] = {201: {"model": Prediction, "description": "Accepted, or what became of it"}}
CREATION = CREATED | ACCEPT_ERRORS
Prefer = Annotated[str, Header(description="`wait`, or `wait=` and up to 60 seconds: answer when it has ended")]


@router.post("/v1/predictions", status_code=201, summary="Make a clip as Replicate does", responses=CREATION)
def create_prediction(
    request: Request,
    asked: NewPrediction,
    services: ServicesDep,
    caller: CallerDep,
    links: LinksDep,
    prefer: Prefer = "",
    idempotency_key: RetryKey = None,
) -> StreamingResponse:
    """`version` or `model` is that of a public Stable Video Diffusion model, which means this service's own engine, or
    the name of an engine."""
    if asked.version and asked.model:
        raise InvalidParameter("give version or model, not both", param="model")
    return create(request, asked, asked.version or asked.model, services, caller, links, prefer, idempotency_key)


@router.post(
    "/v1/models/{owner}/{name}/predictions", status_code=201, summary="Make a clip with a model", responses=CREATION
)
def create_model_prediction(
    owner: str,
    name: str,
    request: Request,
    asked: NewPrediction,
    services: ServicesDep,
    caller: CallerDep,
    links: LinksDep,
    prefer: Prefer = "",
    idempotency_key: RetryKey = None,
) -> StreamingResponse:
    """As `POST /v1/predictions`, with the model in the path."""
    for field in ("version", "model"):
        if getattr(asked, field):
            raise InvalidParameter(f"{field} must be left out: the path names the model", param=field)
    return create(request, asked, f"{owner}/{name}", services, caller, links, prefer, idempotency_key)


@router.get("/v1/predictions", summary="List predictions", responses=ERRORS)
def predictions(
    services: ServicesDep,
    caller: CallerDep,
    links: LinksDep,
    cursor: Annotated[str | None, Query(pattern="^(older|newer)-[0-9a-f]{32}$")] = None,
) -> PredictionPage:
    """A hundred at a time, newest first, however they were asked for; `next` and `previous` are whole URLs."""
    way, _, from_id = (cursor or "older-").partition("-")
    backwards = way == "newer"
    found = services.ledger.tasks(owner=caller.sees, after=from_id or None, limit=PAGE + 1, oldest_first=backwards)
    page, more = found[:PAGE], len(found) > PAGE
    page = page[::-1] if backwards else page
    here = f"{links.base}/v1/predictions?cursor="
    return PredictionPage(
        previous=f"{here}newer-{page[0].task_id}" if page and (more if backwards else cursor) else None,
        next=f"{here}older-{page[-1].task_id}" if page and (more or backwards) else None,
        results=[prediction_with_urls(links, task) for task in page],
    )


@router.get("/v1/predictions/{task_id}", summary="Where a prediction is", responses=ERRORS)
def prediction(task_id: str, services: ServicesDep, caller: CallerDep, links: LinksDep) -> Prediction:
    """Of a task that was asked for in any other way too."""
    return prediction_with_urls(links, *services.ledger.task_with_steps(task_id, caller.sees))


@router.post("/v1/predictions/{task_id}/cancel", summary="End a prediction", responses=ERRORS)
def cancel_prediction(task_id: str, services: ServicesDep, caller: CallerDep, links: LinksDep) -> Prediction:
    """One that has ended stays as it is."""
    status.cancel(task_id, services, caller, links)
    return prediction_with_urls(links, *services.ledger.task_with_steps(task_id))


@router.get(
    "/v1/webhooks/default/secret",
    summary="What webhooks are signed with",
    responses=documented(errors.LedgerUnavailable),
)
def webhook_secret(services: ServicesDep, caller: CallerDep) -> SigningSecret:
    """The one of your key, as `GET /webhooks/secret` has it."""
    return SigningSecret(key=services.ledger.endpoints.secret(caller.owner))


def create(
    request: Request,
    asked: NewPrediction,
    ref: str | None,
    services: Services,
    caller: Caller,
    links: Links,
    prefer: str,
    idempotency_key: str | None,
) -> StreamingResponse:
    if asked.stream:
        raise InvalidParameter("stream must be false: no model here gives its output piece by piece", param="stream")
    engine, given, seconds = engine_of(ref, services), dict(asked.input), seconds_to_wait(prefer)
    picture = picture_in(given, request.state.file_of, services.settings)
    names = {ours: theirs for theirs, ours in NAMES.items() if theirs in given}
    clip, sizing = request_of(given, engine)
    submission = Submission(
        picture,
        clip,
        idempotency_key,
        callback=callback_of(asked, services.settings),
        dialect=Dialect.REPLICATE,
        names=names | ({"width": picture.param, "height": picture.param} if sizing else {}),
        sizing=Sizing(sizing, partial(with_size, clip, sizing)) if sizing else None,
    )
    task_id = accept(services, caller, submission)
    answer = wait_until_ended(request, services, caller, links, task_id, seconds)
    return StreamingResponse(answer, 201, media_type="application/json")


async def wait_until_ended(
    request: Request, services: Services, caller: Caller, links: Links, task_id: str, seconds: float
) -> AsyncIterator[str]:
    # What can be said if the ledger is away by now: what was promised is kept.
    begun = {"id": task_id, "status": "starting", "created_at": datetime.now(UTC), "data_removed": False}
    answer = Prediction.model_validate(located(begun, links.base, ""))

    with suppress(LedgerUnavailable, Unauthorized):  # whose key opens nothing any more is told of no result
        with suppress(QueueFull), services.waiting.slot(caller.owner):  # without room nobody waits
            async with aclosing(follow(request, task_id, seconds)) as snapshots:
                async for _ in snapshots:
                    pass
        answer = prediction_with_urls(links, *await run_in_threadpool(services.ledger.task_with_steps, task_id))
    if seconds and answer.completed_at is None:
        answer.status = "starting"  # any other has the client's `run` believe that it has ended
    yield answer.model_dump_json()


def seconds_to_wait(prefer: str) -> float:
    """By the header `Prefer` (RFC 7240). Raises InvalidParameter."""
    asked = next((part.strip() for part in prefer.split(",") if part.strip().startswith("wait")), "")
    _, is_given, seconds = asked.partition("=")
    if not is_given:
        return MOST_SECONDS if asked else 0.0
    if not (seconds.isdecimal() and 1 <= int(seconds[:9]) <= MOST_SECONDS):
        raise InvalidParameter(f"Prefer: wait must be from 1 to 60 s; got {shown(seconds)}", param="Prefer")
    return float(seconds)


def callback_of(asked: NewPrediction, settings: Settings) -> Callback | None:
    """Raises InvalidParameter, DestinationForbidden."""
    urls = {"webhook": asked.webhook, "webhook_completed": asked.webhook_completed}
    given = [(name, url) for name, url in urls.items() if url is not None]
    if len(given) > 1:
        raise InvalidParameter("give webhook or webhook_completed, not both", param="webhook_completed")
    if asked.webhook_events_filter and asked.webhook is None:
        message = "webhook_events_filter says nothing without webhook"
        raise InvalidParameter(message, param="webhook_events_filter")
    for name, url in given:
        check_outbound_url(url, settings.fetch_allow, name, https_only=True)
        return Callback(url, events_of(asked))
    return None


def events_of(asked: NewPrediction) -> list[str]:
    names = ["completed"] if asked.webhook_completed else asked.webhook_events_filter or EVENTS
    return list(dict.fromkeys(event for name in names for event in EVENTS[name]))


def engine_of(ref: str | None, services: Services) -> str | None:
    """The engine that a version or a model names; None for a public model, which any engine here stands for. Raises
    InvalidParameter."""
    engines = ["auto", *known_engines(services.settings)]
    name = (ref or "").removeprefix(f"{OWNER}/")
    if name in engines:
        return name
    model, _, version = name.partition(":")
    if name in PUBLIC_MODELS.values() or (model in PUBLIC_MODELS and version in ("", PUBLIC_MODELS[model])):
        return None
    choices = ", ".join([*engines, *(f"{model}:{version}" for model, version in PUBLIC_MODELS.items())])
    raise InvalidParameter(f"version or model must be one of {choices}; got {shown(name)}", param="version")


def request_of(given: dict[str, Any], engine: str | None) -> tuple[ClipRequest, str | None]:
    """What is asked for, and how the clip's size follows from the picture's. Raises InvalidParameter."""
    for names in (*NAMES.items(), ("video_length", "num_frames")):
        if all(given.get(name) is not None for name in names):
            raise InvalidParameter(f"give {' or '.join(names)}, not both", param=names[-1])
    fields = {} if engine else ours_of(DEFAULTS)
    fields |= ours_of({name: value for name, value in given.items() if name not in PICTURES})
    sizing = chosen(fields.pop("sizing_strategy", None), SIZINGS, "sizing_strategy")
    length = chosen(fields.pop("video_length", None), tuple(FRAMES), "video_length")
    if length and "num_frames" not in fields and "seconds" not in fields:
        fields["num_frames"] = FRAMES[length]
    if engine and fields.setdefault("engine", engine) != engine:
        raise InvalidParameter(f"engine must be {engine}, as the version or model has it", param="engine")
    try:
        request = ClipRequest.model_validate(fields)
    except ValidationError as error:
        theirs = {ours: name for name, ours in NAMES.items() if name in given}
        first = error.errors()[0]
        ours = str(next(iter(first["loc"]), "input"))
        name = theirs.get(ours, ours)
        if first["type"] == "extra_forbidden":
            raise InvalidParameter(f"{name} is no input of this model", param=name) from error
        raise invalid_parameter([first | {"loc": (name,)}]) from error
    own_size = request.width is not None or request.height is not None
    return request, None if own_size else sizing


def ours_of(given: dict[str, Any]) -> dict[str, Any]:
    return {NAMES.get(name, name): value for name, value in given.items()}


def chosen(value: Any, choices: tuple[str, ...], name: str) -> str | None:
    if value is None or value in choices:
        return None if value is None else str(value)
    raise InvalidParameter(f"{name} must be one of {', '.join(choices)}; got {shown(value)}", param=name)


def picture_in(
    given: dict[str, Any], file_of: Callable[[str], BinaryIO], settings: Settings
) -> SentPicture | PictureUrl:
    """`file_of`: what gives a text as a file. Raises FileMissing, UploadTooLarge, InvalidParameter."""
    named = [name for name in PICTURES if given.get(name) is not None]
    if not named:
        raise FileMissing("give one picture, as input_image or as image", param=PICTURES[0])
    if len(named) > 1:
        raise InvalidParameter(f"give {' or '.join(named)}, not both", param=named[-1])
    text = given[named[0]]
    if not isinstance(text, str):
        raise InvalidParameter(f"{named[0]} must be a picture as text; {TEXT_RULE}", param=named[0])
    return read_text(file_of(text), settings, named[0])


def with_size(request: ClipRequest, sizing: str, size: tuple[int, int]) -> ClipRequest:
    width, height = size_by(sizing, *size)
    fit = request.fit or ("cover" if sizing == "crop_to_16_9" else "stretch")
    return request.model_copy(update={"width": width, "height": height, "fit": fit})


def size_by(sizing: str, width: int, height: int) -> tuple[int, int]:
    """The clip's size for a picture's, as the public models have it; no smaller picture is made larger."""
    if sizing == "crop_to_16_9":
        return WIDTH, HEIGHT
    scale = min(1.0, WIDTH / width, HEIGHT / height) if sizing == "maintain_aspect_ratio" else 1.0
    return round(width * scale) // MULTIPLE * MULTIPLE, round(height * scale) // MULTIPLE * MULTIPLE


def prediction_with_urls(links: Links, task: Task, steps: list[Step] | None = None) -> Prediction:
    prediction = prediction_of(task, progress_of(steps) if steps else None)
    return Prediction.model_validate(located(prediction, links.base, links.result(task.task_id, task.owner)))
