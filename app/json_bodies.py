"""Bounds on JSON that may hold a picture, before anything parses it.

It has to be in memory as a whole, so only so much of it is at a time. And what is not the text of a picture must be
small: a list of a million lists takes far more time and memory to read than it has bytes.
"""

import re

from fastapi import Request
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.body_limit import FORM_BYTES, takes_picture
from app.errors import refusal
from app.layer import Layer
from core.errors import QueueFull, UploadTooLarge

HELD_BYTES = 128_000_000
# Base64, with or without what stands before it in a data: URL. Neither a comma nor a bracket is in it, so that nothing
# between the end of one text and the beginning of another is taken for it.
PICTURE = re.compile(rb'"(?:data:[a-zA-Z0-9/.+-]{1,100};base64,)?[A-Za-z0-9+/=_\\-]{500,}+"')


class JsonBodies(Layer):
    def __init__(self, app: ASGIApp) -> None:
        super().__init__(app)
        self.held = 0

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        if not takes_picture(scope["path"]) or not is_json(request):
            await self.app(scope, receive, send)
            return
        length = request.headers.get("content-length", "")
        holds = int(length) if length.isdigit() else HELD_BYTES // 4  # more than MAX_UPLOAD_MB allows, as it comes
        if self.held and self.held + holds > HELD_BYTES:
            full = QueueFull("as many pictures are coming in as JSON as may at once", retry_after=5)
            await refusal(request, full)(scope, receive, send)
            return
        self.held += holds
        request.state.upload.callback(self._let_go, holds)
        await self._check(request, scope, receive, send)

    def _let_go(self, holds: int) -> None:
        self.held -= holds

    async def _check(self, request: Request, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await read_body(receive)
        except HTTPException as error:  # too slow or too large
            await refusal(request, error)(scope, receive, send)
            return
        if body is None:
            return
        if len(PICTURE.sub(b"", body)) > FORM_BYTES:
            message = f"without its pictures the request may have at most {FORM_BYTES} bytes"
            await refusal(request, UploadTooLarge(message))(scope, receive, send)
            return
        await self.app(scope, replay(body, receive), send)


def is_json(request: Request) -> bool:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind == "application/json" or kind.endswith("+json")


async def read_body(receive: Receive) -> bytes | None:
    """None: the client has left."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if not message.get("more_body"):
            return bytes(body)


def replay(body: bytes, receive: Receive) -> Receive:
    left = [body]

    async def once() -> Message:
        if left:
            return {"type": "http.request", "body": left.pop(), "more_body": False}
        return await receive()

    return once
