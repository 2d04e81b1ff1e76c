"""JSON that may hold a picture, before anything parses it: all that is sent where one is taken and is no form, for what
else is read as JSON is for the route to say.

Its pictures go into files as they come in. What is left must be small: a list of a million lists takes far more time
and memory to read than it has bytes.
"""

import re
from collections.abc import Collection
from contextlib import closing

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import refusal
from app.json_pictures import JsonPictures
from app.middleware.base import Middleware
from app.route_path import route_path
from core.errors import KinoraError

WRITE_BYTES = 1 << 18  # at a time: a quarter of a millisecond


class JsonBodies(Middleware):
    def __init__(self, app: ASGIApp, uploads: re.Pattern[str], pictures: Collection[str]) -> None:
        """`uploads`: the paths of requests that may hold a picture; `pictures`: the names that it may have there."""
        super().__init__(app)
        self.uploads, self.pictures = uploads, pictures

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        if request.method != "POST" or not self.uploads.fullmatch(route_path(scope)) or is_form(request):
            await self.app(scope, receive, send)
            return
        with closing(JsonPictures(self.pictures)) as pictures:
            try:
                is_whole = await take(receive, pictures)
            except (KinoraError, HTTPException) as error:
                await refusal(request, error)(scope, receive, send)
                return
            if is_whole:
                request.state.file_of = pictures.file_of
                await self.app(scope, replay(bytes(pictures.rest), receive), send)


def is_form(request: Request) -> bool:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind in ("multipart/form-data", "application/x-www-form-urlencoded")


async def take(receive: Receive, pictures: JsonPictures) -> bool:
    """Read a body into `pictures`. False: the client has left. Raises what `pictures` does."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return False
        pictures.add(message.get("body", b""))
        if pictures.unwritten_bytes >= WRITE_BYTES:
            await run_in_threadpool(pictures.write)
        if not message.get("more_body"):
            pictures.write()
            return True


def replay(body: bytes, receive: Receive) -> Receive:
    left = [body]

    async def once() -> Message:
        if left:
            return {"type": "http.request", "body": left.pop(), "more_body": False}
        return await receive()

    return once
