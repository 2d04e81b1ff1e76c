"""Bounds on the parts of a form, which Starlette would allow a thousand of."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

MAX_FILES = 2
MAX_FIELDS = 64
MAX_FIELD_BYTES = 64 * 1024


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
