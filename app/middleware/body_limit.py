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

from app.errors import refusal
from app.middleware.base import Middleware
from app.middleware.key_turns import KeyTurns, piece_by_piece
from app.route_path import route_path
from app.upload_size import FORM_BYTES, largest_upload
from core.concurrency import ConcurrencyLimit
from core.errors import QueueFull, UploadTooLarge


class BodyLimit(Middleware):
    def __init__(self, app: ASGIApp, max_upload_mb: int, uploads: re.Pattern[str]) -> None:
        """`uploads`: the paths of requests that may hold a picture."""
        super().__init__(app)
        self.uploads = uploads
        self.max_upload_mb = max_upload_mb
        self.turns = KeyTurns()
        self.limits = {True: largest_upload(max_upload_mb), False: FORM_BYTES}
        self.counted = {large: RequestBodyLimitMiddleware(app, limit) for large, limit in self.limits.items()}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_upload = self.uploads.fullmatch(route_path(scope)) is not None
        length, limit = Headers(scope=scope).get("content-length", "0"), self.limits[is_upload]
        if length.isdigit() and int(length[:20]) > limit:
            await refusal(Request(scope), self.too_large(is_upload))(scope, receive, send)
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
        request = Request(scope)
        uploads: ConcurrencyLimit = request.app.state.services.uploads
        with ExitStack() as place:
            try:
                place.enter_context(uploads.slot(request.state.caller.owner))
            except QueueFull as full:
                await refusal(request, full)(scope, receive, send)
                return
            request.state.upload = place  # for who waits before there is an answer

            async def answer(message: Message) -> None:
                place.close()
                await send(message)

            if owner := request.state.caller.owner:
                receive = place.enter_context(piece_by_piece(receive, self.turns.of(owner)))
            await self.counted[True](scope, receive, answer)
