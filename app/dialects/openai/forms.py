"""What `/v1/videos` is asked with, in Kinora's words: OpenAI's fields, what SGLang and vLLM-Omni add to them, and
every parameter of Kinora's own beside them or in `extra_params`."""

import re
from typing import Annotated, Any

from fastapi import Form, UploadFile
from pydantic import ConfigDict, Field, model_validator
from starlette.exceptions import HTTPException

from app.intake.accept import accept
from app.intake.form import PictureText, alias_of, exactly_one, fields_of, without_null
from app.intake.source import Extension, PictureUrl, SentPicture, Source, uploaded
from app.intake.submission import Submission
from app.services import Caller, Services
from app.strict_json import read_json
from core.callbacks.endpoints import FINAL_EVENTS
from core.config.settings import Settings
from core.engines.known import known_engines
from core.errors import InvalidParameter
from core.ids import is_id
from core.requests.clip import ClipRequest, Prompt
from core.task import Callback, Dialect

OPENAI_MODEL = re.compile(r"sora-2(-pro)?(-\d{4}-\d\d-\d\d)?")
OPENAI_SIZES = ("720x1280", "1280x720", "1024x1792", "1792x1024")
OPENAI_LENGTHS = (4, 8, 12, 16, 20)
IN_EXTRA_PARAMS = re.compile(r"extra_params\[(\w+)\]")
NOT_MADE_HERE = {
    "enable_frame_interpolation": "give smooth_fps instead",
    "enable_upscaling": "no engine here does that",
}
PICTURES = (
    "input_reference",
    "input_reference_image_url",
    "image_reference",
    "image_reference_image_url",
    "reference_url",
    "image_url",
)

Picture = UploadFile | None
PictureURL = PictureText | None


class VideoForm(ClipRequest):
    model_config = ConfigDict(json_schema_extra=without_null)

    model: Annotated[
        str | None, Field(description="An engine's name, `auto`, or OpenAI's `sora-2` and `sora-2-pro`: the default")
    ] = None
    size: Annotated[
        str | None,
        Field(
            pattern=r"^\d{1,5}x\d{1,5}$",
            description="Width and height. OpenAI's sizes are made as the engine's largest of that shape, unless "
            "`model` names an engine of this service",
            examples=["1280x720"],
        ),
    ] = None
    negative_prompt: Annotated[Prompt, Field(description="No engine here reads it")] = None
    guidance_scale: Annotated[float | None, Field(description="Another name for `max_guidance_scale`")] = None
    n: Annotated[int | None, Field(ge=1, le=1, description="How many videos: one a request")] = None
    enable_frame_interpolation: Annotated[
        bool | None, Field(description="`false` is accepted; `smooth_fps` says how many frames a second it should be")
    ] = None
    enable_upscaling: Annotated[bool | None, Field(description="Not made here: `false` is accepted")] = None
    extra_params: Annotated[
        str | None, Field(description="More of these fields, as a JSON object or the text of one")
    ] = None
    callback_url: Annotated[
        str | None, Field(description="Where to tell how it ended, as `video.completed` or `video.failed`")
    ] = None

    @model_validator(mode="before")
    @classmethod
    def _spread_extra_params(cls, given: dict[str, Any]) -> dict[str, Any]:
        """What is in `extra_params` is a field like any other."""
        fields: dict[str, Any] = {}
        for name, value in [*in_extra_params(given), *given.items()]:
            own = IN_EXTRA_PARAMS.sub(r"\1", name)
            if own in fields:
                raise InvalidParameter(f"{own} is there twice: in extra_params too", param=own)
            fields[own] = value
        return fields


class CreateForm(VideoForm):
    input_reference: Annotated[Picture, Field(description="JPEG, PNG, WebP, AVIF, HEIC, GIF or BMP")] = None
    input_reference_image_url: Annotated[
        PictureURL, Field(alias="input_reference[image_url]", description="Where it is, or a `data:` URL")
    ] = None
    image_reference: Annotated[Picture, Field(description="As vLLM-Omni has it: an object with `image_url`")] = None
    image_reference_image_url: Annotated[
        PictureURL, Field(alias="image_reference[image_url]", description="Where it is, or a `data:` URL")
    ] = None
    reference_url: Annotated[PictureURL, Field(description="Where it is, as SGLang has it")] = None
    image_url: Annotated[PictureURL, Field(description="Where it is, or a `data:` URL")] = None


class ContinueForm(VideoForm):
    """Of an edit and of an extension."""

    video_id: Annotated[str | None, Field(alias="video[id]", description="The video that it is made from")] = None
    video: Annotated[Picture, Field(description="The same id. Not a video: Kinora goes on from its own only")] = None


AS_FORM = Form(media_type="multipart/form-data")
VideoFields = Annotated[VideoForm, AS_FORM]
CreateFields = Annotated[CreateForm, AS_FORM]
ContinueFields = Annotated[ContinueForm, AS_FORM]


def in_extra_params(given: dict[str, Any]) -> list[tuple[str, Any]]:
    """Takes out the text of a JSON object, and gives its fields. Raises InvalidParameter."""
    text = given.pop("extra_params", None)
    if text is None:
        return []
    try:
        found = read_json(text)
    except (HTTPException, TypeError):
        found = None
    if not isinstance(found, dict):
        raise InvalidParameter("extra_params must be a JSON object", param="extra_params")
    return list(fields_of({"extra_params": found}))


def picture_in(form: CreateForm, settings: Settings) -> SentPicture | PictureUrl:
    name = exactly_one(form, *PICTURES) or PICTURES[0]
    return uploaded(getattr(form, name), settings, alias_of(form, name))


def id_in(form: ContinueForm) -> str:
    """Of the video to go on from; the client cannot send an object here, but can send the id as if it were a file."""
    if exactly_one(form, "video_id", "video") is None:
        raise InvalidParameter("say which video: give video[id]", param="video[id]")
    found = form.video_id or (form.video.file.read(100).decode(errors="replace").strip() if form.video else "")
    if form.video and not is_id(found):
        message = "a video cannot be uploaded: Kinora goes on from its own videos only; give the id of one as video[id]"
        raise InvalidParameter(message, param="video")
    return found


def request_in(form: VideoForm, settings: Settings) -> ClipRequest:
    """Raises InvalidParameter."""
    for name, why in NOT_MADE_HERE.items():
        if getattr(form, name):
            raise InvalidParameter(f"{name} must be false: {why}", param=name)
    for names in (("model", "engine"), ("guidance_scale", "max_guidance_scale"), ("size", "width"), ("size", "height")):
        exactly_one(form, *names)
    meant = {"engine": engine_in(form, settings), "max_guidance_scale": form.guidance_scale}
    if form.size:
        meant["width"], meant["height"] = map(int, form.size.split("x"))
    asked = form.model_dump(include=set(ClipRequest.model_fields), exclude_none=True)
    return ClipRequest(**asked | {name: value for name, value in meant.items() if value is not None})


def engine_in(form: VideoForm, settings: Settings) -> str | None:
    choices = ("auto", *known_engines(settings))
    if form.model is None or form.model in choices:
        return form.model
    if OPENAI_MODEL.fullmatch(form.model):
        return None
    message = f"model must be one of {', '.join(choices)}, sora-2, sora-2-pro; {form.model!r} is not known"
    raise InvalidParameter(message, param="model")


def names_in(form: VideoForm) -> dict[str, str]:
    """The parameters that were asked for by OpenAI's names, with these."""
    meant = {"width": "size", "height": "size", "engine": "model", "max_guidance_scale": "guidance_scale"}
    return {ours: theirs for ours, theirs in meant.items() if getattr(form, theirs) is not None}


def takes_nearest(form: VideoForm, source: Source) -> bool:
    """Whether the size, or the length of an extension, is such as OpenAI's clients ask for, and not meant for one of
    our engines."""
    if isinstance(source, Extension):
        return form.seconds in OPENAI_LENGTHS
    named = form.model or form.engine or "auto"
    return form.size in OPENAI_SIZES and (named == "auto" or OPENAI_MODEL.fullmatch(named) is not None)


def warnings_of(form: VideoForm) -> list[str]:
    found = []
    if form.model and OPENAI_MODEL.fullmatch(form.model):
        found.append(f"there is no model {form.model} here: an engine of this service took its place")
    if form.negative_prompt:
        found.append("negative_prompt is not used by any engine here")
    return found


def callback_in(form: VideoForm) -> Callback | None:
    return Callback(form.callback_url, list(FINAL_EVENTS)) if form.callback_url else None


def begin_new(services: Services, caller: Caller, form: CreateForm, idempotency_key: str | None) -> str:
    return begin(services, caller, picture_in(form, services.settings), form, idempotency_key)


def begin(services: Services, caller: Caller, source: Source, form: VideoForm, idempotency_key: str | None) -> str:
    submission = Submission(
        source,
        request_in(form, services.settings),
        idempotency_key,
        callback_in(form),
        Dialect.OPENAI,
        nearest=takes_nearest(form, source),
        warnings=tuple(warnings_of(form)),
        names=names_in(form),
    )
    return accept(services, caller, submission)
