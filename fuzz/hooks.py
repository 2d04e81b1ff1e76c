"""What schemathesis cannot make up by itself: a picture. Loaded by it through SCHEMATHESIS_HOOKS."""

import base64
from typing import Any

import schemathesis
from schemathesis import GenerationMode
from schemathesis.core.failures import AcceptedNegativeData
from schemathesis.transport.serialization import Binary

from app.dialects.openai.forms import PICTURES, CreateForm
from harness.pictures import png

PICTURE = Binary(png(64, 64))
BASE64 = base64.b64encode(png(64, 64)).decode()
PREDICTION = {"version": "preview", "input": {"image": BASE64, "width": 64, "height": 64, "num_frames": 2}}
CREATE_FIELDS = tuple(field.alias or name for name, field in CreateForm.model_fields.items() if name in PICTURES)
# The fields that take a picture of the routes that make a video from one; in each the first is given it.
PICTURE_FIELDS = {
    "POST /generate": ("file", "image", "image_url"),
    "POST /v1/videos": CREATE_FIELDS,
    "POST /v1/videos/sync": CREATE_FIELDS,
}


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Gives two of three valid requests for a video a picture, and one of them only what every engine takes, so that
    tasks come into being and the routes behind them are reached."""
    valid = all(component.mode == GenerationMode.POSITIVE for component in case.meta.components.values())
    if case.operation.label == "POST /v1/predictions" and valid and len(str(case.body)) % 2:
        case.body = PREDICTION
    fields = PICTURE_FIELDS.get(case.operation.label)
    if not fields or not valid or not isinstance(case.body, dict):
        return
    picture = {fields[0]: PICTURE if case.media_type == "multipart/form-data" else BASE64}
    turn = hash(str(sorted(case.body))) % 3
    if turn:
        case.body = {name: value for name, value in case.body.items() if name not in fields} | picture
    if turn == 1:
        case.body = picture | {"width": 64, "height": 64, "num_frames": 2}


@schemathesis.hook
def filter_failure(context: Any, failure: Any, case: Any, response: Any) -> bool:
    """A validator of JSON takes a picture for no string, and a number for no file, so that a request with one counts as
    invalid: what a form brings are bytes, whatever they were. In JSON that stands for a form null means left out."""
    ours = isinstance(case.body, dict) and any(value is PICTURE for value in case.body.values())
    is_file = case.operation.label == "POST /v1/files" and "at /properties/content " in failure.message
    is_left_out = "became null" in failure.message
    return not ((ours or is_file or is_left_out) and isinstance(failure, AcceptedNegativeData))
