"""What is special about forms: bounds on their parts, which Starlette would allow a thousand of, and no null."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

MAX_FILES = 2
MAX_FIELDS = 64
MAX_FIELD_BYTES = 64 * 1024


def without_null(schema: dict[str, Any]) -> None:
    """Takes `null` out of a model's JSON schema: a form has none, its fields are there or not."""
    for field in schema["properties"].values():
        kinds = [kind for kind in field.pop("anyOf", []) if kind != {"type": "null"}]
        field |= kinds[0] if kinds else {}


class BoundedForm(Request):
    def form(self, **_: Any) -> Any:
        return super().form(max_files=MAX_FILES, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES)


class FormRoute(APIRoute):
    """A route whose form is bounded: 400 for what is beyond."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_bounded(request: Request) -> Response:
            return await handle(BoundedForm(request.scope, request.receive))

        return handle_bounded
