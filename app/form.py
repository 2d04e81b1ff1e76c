"""What is special about forms: bounds on their parts, which Starlette would allow a thousand of, one kind and one
character set, since reading others can take far longer than receiving them, and no null."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute
from python_multipart.multipart import parse_options_header

MAX_FILES = 2
MAX_FIELDS = 40
MAX_FIELD_BYTES = 20_000
MAX_URLENCODED = 64 * 1024  # of these Starlette bounds nothing


def without_null(schema: dict[str, Any]) -> None:
    """Takes `null` out of a model's JSON schema: a form has none, its fields are there or not."""
    for field in schema["properties"].values():
        kinds = [kind for kind in field.pop("anyOf", []) if kind != {"type": "null"}]
        field |= kinds[0] if kinds else {}


class BoundedForm(Request):
    def form(self, **_: Any) -> Any:
        kind, options = parse_options_header(self.headers.get("content-type", ""))
        if kind not in (b"", b"multipart/form-data", b"application/x-www-form-urlencoded"):
            raise HTTPException(400, "a form is sent as multipart/form-data")
        length = self.headers.get("content-length", "")
        if kind == b"application/x-www-form-urlencoded" and not (length.isdigit() and int(length) <= MAX_URLENCODED):
            raise HTTPException(413, f"a form that is no multipart may have at most {MAX_URLENCODED} bytes")
        if options.get(b"charset", b"utf-8").lower() not in (b"utf-8", b"utf8", b"us-ascii"):
            raise HTTPException(400, "the form's fields must be in UTF-8")
        return super().form(max_files=MAX_FILES, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES)


class FormRoute(APIRoute):
    """A route whose form is bounded: 400 for what is beyond."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_bounded(request: Request) -> Response:
            return await handle(BoundedForm(request.scope, request.receive))

        return handle_bounded
