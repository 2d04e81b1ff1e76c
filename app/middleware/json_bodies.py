"""Bounds on JSON that may hold a picture, before anything parses it: on all that is sent where one is taken and is no
form, for what else is read as JSON is for the route to say.

It has to be in memory as a whole, so only so much of it is at a time. And what is not the text of a picture must be
small: a list of a million lists takes far more time and memory to read than it has bytes.
"""

import re
from collections.abc import Callable
from contextlib import ExitStack

from fastapi import Request
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import refusal
from app.middleware.base import Middleware
from app.route_path import route_path
from app.upload_size import FORM_BYTES
from core.concurrency import ConcurrencyLimit
from core.errors import QueueFull, UploadTooLarge

# Base64 as app/intake/source.py reads it, with what else may stand in its text: spaces, what JSON escapes, escapes of a
# URL, and the quotes of Python.
BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=_-%' \\"
SHORTEST, LINE = 500, 60
# Without a bracket, so that nothing between the end of one text and the beginning of another is taken for it.
DATA_URL = re.compile(rb"(?:[ b']|\\[nrt]|\\){0,20}data:[^,\[\]{}]{0,200}base64 *,", re.IGNORECASE)


class JsonBodies(Middleware):
    def __init__(self, app: ASGIApp, uploads: re.Pattern[str]) -> None:
        """`uploads`: the paths of requests that may hold a picture."""
        super().__init__(app)
        self.uploads = uploads

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        if request.method != "POST" or not self.uploads.fullmatch(route_path(scope)) or is_form(request):
            await self.app(scope, receive, send)
            return
        owner, told = request.state.caller.owner, request.headers.get("content-length", "")
        length = int(told) if told.isdigit() else 0
        room: ConcurrencyLimit = request.app.state.services.texts
        try:
            with ExitStack() as coming:
                body = await read_body(receive, lambda more: coming.enter_context(room.slot(owner, more)), length)
        except (QueueFull, HTTPException) as error:  # there is no room, or it is too slow or too large
            await refusal(request, error)(scope, receive, send)
            return
        if body is None:
            return
        if body.count(b'"') > FORM_BYTES or len(body) - bytes_of_pictures(body) > FORM_BYTES:
            message = f"without its pictures the request may have at most {FORM_BYTES // 1024} KiB"
            await refusal(request, UploadTooLarge(message))(scope, receive, send)
            return
        # Which is no more than it had a moment ago.
        request.state.upload.enter_context(room.slot(owner, len(body)))
        await self.app(scope, replay(body, receive), send)


def bytes_of_pictures(body: bytes) -> int:
    """Return how much of JSON is the text of pictures. By calls that take a millisecond for each megabyte: meanwhile
    nobody else is answered."""
    return sum(len(text) for text in body.split(b'"') if is_picture(text))


def is_picture(text: bytes) -> bool:
    """Whether what stands between two quotes is base64, or a data: URL of it."""
    if len(text) < SHORTEST or text.count(b" ") > len(text) // LINE:
        return False
    head, comma, base64 = text.rpartition(b",")
    return (not comma or DATA_URL.fullmatch(head + comma) is not None) and not base64.translate(None, BASE64)


def is_form(request: Request) -> bool:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind in ("multipart/form-data", "application/x-www-form-urlencoded")


async def read_body(receive: Receive, make_room: Callable[[int], None], length: int) -> bytes | None:
    """None: the client has left. Makes room for as much as is announced (`length`) before any of it comes, and then for
    what comes beyond it. Raises QueueFull."""
    body, room = bytearray(), length
    make_room(room)
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > room:
            make_room(len(body) - room)
            room = len(body)
        if not message.get("more_body"):
            return bytes(body)


def replay(body: bytes, receive: Receive) -> Receive:
    left = [body]

    async def once() -> Message:
        if left:
            return {"type": "http.request", "body": left.pop(), "more_body": False}
        return await receive()

    return once
