"""What is special about forms: bounds on their parts, which Starlette would allow a thousand of, one kind and one
character set, since reading others can take far longer than receiving them, and one value for each field but LISTS.

A JSON object is read as the form it stands for, so that each route knows one way of being asked: `{"a": {"b": 1}}` is
the field `a[b]`, as clients write it who turn objects into forms. A form has no null: null in JSON means left out.
"""

import json
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Annotated, Any, BinaryIO
from urllib.parse import parse_qsl

import fastapi
from fastapi import HTTPException
from pydantic import BaseModel, WithJsonSchema
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from app.json_pictures import IN_MEMORY, file_of_text, full_is_told
from app.strict_json import JsonRoute, StrictJson, check_each_once
from core.errors import InvalidParameter, KinoraError
from core.text import check_name, check_text

MAX_FIELDS = 40
TOO_MANY_FIELDS = f"Too many fields. Maximum number of fields is {MAX_FIELDS}."  # as Starlette says it
MAX_FIELD_BYTES = 20_000
MAX_NAME = 200  # characters: what is in an object of JSON has the object's name before its own, each time
MULTIPART, URLENCODED = "multipart/form-data", "application/x-www-form-urlencoded"
MAX_URLENCODED = 64 * 1024  # of these Starlette bounds nothing

# Where a picture is expected, or a URL, or base64: all of them are read as files, which are not held in memory.
PICTURES = (
    "file",
    "image",
    "image_url",
    "input_reference",
    "input_reference[image_url]",
    "image_reference",
    "image_reference[image_url]",
    "reference_url",
    "video",
)
MAX_FILES = len(PICTURES)
LISTS = ("callback_events",)
"""The fields that hold more than one value."""

PictureText = Annotated[fastapi.UploadFile, WithJsonSchema({"type": "string"})]
"""A picture's field that is meant for a URL or base64, so that a page does not ask for a file there."""


def exactly_one(form: BaseModel, *fields: str) -> str | None:
    """Which of the fields was given, if any. Raises InvalidParameter if more than one was."""
    given = [alias_of(form, field) for field in fields if getattr(form, field) is not None]
    if len(given) > 1:
        raise InvalidParameter(f"give {' or '.join(given)}, not both", param=given[-1])
    return next((field for field in fields if getattr(form, field) is not None), None)


def alias_of(form: BaseModel, field: str) -> str:
    """What it is called on the wire."""
    return type(form).model_fields[field].alias or field


def without_null(schema: dict[str, Any]) -> None:
    """Takes `null` out of a model's JSON schema: a form has none, its fields are there or not."""
    for field in schema["properties"].values():
        kinds = [kind for kind in field.pop("anyOf", []) if kind != {"type": "null"}]
        field |= kinds[0] if kinds else {}


def also_json(model: type[BaseModel]) -> dict[str, Any]:
    """The `openapi_extra` of a route whose form may be sent as JSON too."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)  # they stand there, as the form's
    for name, field in schema["properties"].items():
        if name in PICTURES:
            schema["properties"][name] = {
                "type": "string",
                "title": field["title"],
                "description": "The picture in base64, as a data: URL, or the URL where it is",
            }
    return {"requestBody": {"content": {"application/json": {"schema": schema}}, "required": True}}


class BoundedForm(StrictJson):
    def form(self, **_: Any) -> Any:
        kind, options = parse_options_header(self.headers.get("content-type", ""))
        if kind == b"application/json":
            return self._json_form()
        length = self.headers.get("content-length", "")
        if kind == b"application/x-www-form-urlencoded" and not (length.isdigit() and int(length) <= MAX_URLENCODED):
            most = f"{URLENCODED} is for forms that say their length, of up to {MAX_URLENCODED} bytes"
            raise HTTPException(415, f"{most}: a picture is sent as {MULTIPART} or application/json")
        if options.get(b"charset", b"utf-8").lower() not in (b"utf-8", b"utf8", b"us-ascii"):
            raise HTTPException(400, "the form's fields must be in UTF-8")
        return self._multipart() if kind == b"multipart/form-data" else self._urlencoded()

    async def _urlencoded(self) -> FormData:
        # What is no UTF-8 becomes surrogates, which are refused with the field's name; Starlette would replace it.
        escaped = (await self.body()).decode(errors="surrogateescape")
        # Before they are read, which takes a fiftieth of a second for thousands.
        if sum(field != "" for field in escaped.split("&")) > MAX_FIELDS:
            raise HTTPException(400, TOO_MANY_FIELDS)
        items = parse_qsl(escaped, keep_blank_values=True, errors="surrogateescape")
        return normalize_fields([(name, with_pluses(name, value)) for name, value in items])

    async def _multipart(self) -> FormData:
        parser = PictureParser(self.headers, self.stream(), max_files=MAX_FILES, max_fields=MAX_FIELDS)
        try:
            with full_is_told():
                form = await parser.parse()
        except MultiPartException as error:
            raise HTTPException(400, error.message) from error
        try:
            return normalize_fields(form.multi_items())
        except KinoraError:
            await form.close()
            raise

    async def _json_form(self) -> FormData:
        found = await self.json()  # app/middleware/json_bodies.py has seen to it that it is little
        if not isinstance(found, dict):
            raise HTTPException(400, "the body must be a JSON object")
        items = list(fields_of(found))
        if len(items) > MAX_FIELDS:
            raise HTTPException(400, TOO_MANY_FIELDS)
        return normalize_fields(items, getattr(self.state, "file_of", file_of_text))


class PictureParser(MultiPartParser):
    spool_max_size = IN_MEMORY
    is_whole = False

    def on_end(self) -> None:
        self.is_whole = True

    async def parse(self) -> FormData:
        self.stream = self._to_the_end(self.stream)
        return await super().parse()

    async def _to_the_end(self, stream: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        async for chunk in stream:
            yield chunk
        if not self.is_whole:
            raise MultiPartException("the form ends before its last boundary")

    def on_headers_finished(self) -> None:
        part = self._current_part
        _, options = parse_options_header(part.content_disposition)
        if options.get(b"name", b"").decode(errors="replace") in PICTURES and b"filename" not in options:
            part.content_disposition = (part.content_disposition or b"") + b'; filename="text"'
        check_name(self._decoded(options.get(b"name", b"")))
        super().on_headers_finished()

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        part = self._current_part
        if part.file is None and len(part.data) + end - start > MAX_FIELD_BYTES:
            raise MultiPartException(f"{part.field_name} may have at most {MAX_FIELD_BYTES} bytes")
        super().on_part_data(data, start, end)

    def on_part_end(self) -> None:
        if self._current_part.file is None:
            check_text(self._current_part.field_name, self._decoded(self._current_part.data))
        super().on_part_end()

    def _decoded(self, text: bytes | bytearray) -> str:
        """Return the text with surrogates for what is not in the form's character set: Starlette would read all of it
        as Latin-1."""
        return text.decode(self._charset, "surrogateescape")


def normalize_fields(
    items: list[tuple[str, str | UploadFile]], file_of: Callable[[str], BinaryIO] = file_of_text
) -> FormData:
    """`a[]`, which is how some clients write a list, is another `a`; a picture's field is a file, whatever is in it:
    `file_of` gives a text as one. Raises InvalidParameter for a field that is there twice and is no list, and for text
    that not every store can hold."""
    fields = [(name.removesuffix("[]"), value) for name, value in items]
    for name, value in fields:
        check_name(name)
        if isinstance(value, str):
            check_text(name, value)
    check_each_once(name for name, _ in fields if name not in LISTS)
    return FormData(
        [
            (name, UploadFile(file_of(value)) if isinstance(value, str) and name in PICTURES else value)
            for name, value in fields
        ]
    )


def with_pluses(name: str, value: Any) -> Any:
    """A picture's base64 as it was before it was sent as it is in such a form, where + stands for a space."""
    if name not in PICTURES or not isinstance(value, str):
        return value
    head, comma, text = value.strip().rpartition(",")
    return head + comma + text.strip().replace(" ", "+")


def fields_of(found: dict[str, Any], inside: str = "") -> Iterator[tuple[str, str | UploadFile]]:
    """Yield what an object of JSON is as a form. Raises InvalidParameter for a list where one value is meant."""
    for key, value in found.items():
        name = f"{inside}[{key}]" if inside else key
        if len(name) > MAX_NAME:
            raise HTTPException(400, f"the name of a field may have at most {MAX_NAME} characters")
        for each in values_of(name, value):
            if isinstance(each, dict):
                yield from fields_of(each, name)
            elif each is not None:  # a form has no null, its fields are there or not
                yield name, each if isinstance(each, str) else json.dumps(each)


def values_of(name: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        return [value]
    if name not in LISTS:
        raise InvalidParameter(f"{name} must be one value, not a list", param=name)
    if not value:
        raise InvalidParameter(f"{name} must have at least 1 value, or be left out", param=name)
    return value


class FormRoute(JsonRoute):
    """A route whose form is bounded: 400 for what is beyond."""

    request_class = BoundedForm
    media_types = (MULTIPART, URLENCODED, "application/json")
