"""How much a request may send: a picture where one is taken, little everywhere else, and so many pictures at once.

Starlette's RequestBodyLimitMiddleware counts what comes in; what says by itself that it is too large is refused before
any of it is read, and in our own shape.
"""

import re
from contextlib import ExitStack

from fastapi import Request
from starlette.datastructures import Headers
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.base64_json import BASE64_GROWTH
from app.errors import refusal
from app.middleware.base import Middleware
from app.route_path import route_path
from core.errors import QueueFull, UploadTooLarge

# What the other fields and the multipart wrapping may add to the picture; and what any other request may send.
FORM_BYTES = 64 * 1024
# Each lies in the temporary folder as it comes in.
UPLOADS_AT_ONCE = 64


def largest_upload(max_upload_mb: int) -> int:
    return int(max_upload_mb * 1_000_000 * BASE64_GROWTH) + FORM_BYTES


class BodyLimit(Middleware):
    def __init__(self, app: ASGIApp, max_upload_mb: int, uploads: re.Pattern[str]) -> None:
        """`uploads`: the paths of requests that may hold a picture."""
        super().__init__(app)
        self.uploads = uploads
        self.max_upload_mb = max_upload_mb
        self.limits = {True: largest_upload(max_upload_mb), False: FORM_BYTES}
        self.counted = {large: RequestBodyLimitMiddleware(app, limit) for large, limit in self.limits.items()}
        self.coming = 0
        """Uploads, now."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_upload = self.uploads.fullmatch(route_path(scope)) is not None
        length, limit = Headers(scope=scope).get("content-length", "0"), self.limits[is_upload]
        if length.isdigit() and int(length[:20]) > limit:
            await refusal(Request(scope), self.too_large(is_upload))(scope, receive, send)
        elif is_upload and self.coming >= UPLOADS_AT_ONCE:
            full = QueueFull(f"{UPLOADS_AT_ONCE} uploads are coming in, and no more may at once", retry_after=5)
            await refusal(Request(scope), full)(scope, receive, send)
        elif is_upload:
            await self._count(scope, receive, send)
        else:
            await self.counted[False](scope, receive, send)

    def too_large(self, is_upload: bool) -> UploadTooLarge:
        if is_upload:
            return UploadTooLarge(f"the picture may have at most {self.max_upload_mb} MB", param="file")
        return UploadTooLarge(f"the request may have at most {FORM_BYTES // 1024} KiB")

    async def _count(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Until its answer begins, which may go on for as long as somebody waits for a video."""
        self.coming += 1
        with ExitStack() as place:
            place.callback(self._let_go)
            scope.setdefault("state", {})["upload"] = place  # for who waits before there is an answer

            async def answer(message: Message) -> None:
                place.close()
                await send(message)

            await self.counted[True](scope, receive, answer)

    def _let_go(self) -> None:
        self.coming -= 1
