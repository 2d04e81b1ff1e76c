"""Refuses a body that says it is too large before reading any of it.

Starlette's RequestBodyLimitMiddleware covers those that do not say; to these it would answer in plain text."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import answer
from core.errors import UploadTooLarge


class ContentLengthLimit:
    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app, self.max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            length = Headers(scope=scope).get("content-length", "0")
            if length.isdigit() and int(length) > self.max_bytes:
                message = f"the request may have at most {self.max_bytes} bytes; it has {length}"
                refusal = answer(413, UploadTooLarge.code, message, "file", Connection="close")
                await refusal(scope, receive, send)
                return
        await self.app(scope, receive, send)
