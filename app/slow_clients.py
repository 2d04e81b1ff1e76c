"""Bounds on how slowly a client may send and read, so that a few thousand of them do not hold everything there is.

The head of a request is bounded in time and size by `BoundedHttp`, uvicorn's own protocol with a clock; its body and
the answer by `SlowClients`.
"""

import asyncio

from fastapi import Request
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.errors import refusal

HEAD_SECONDS = 15.0
MAX_HEAD_BYTES = 64 * 1024
MAX_HEADERS = 100
BODY_PAUSE_SECONDS = 30.0  # between two pieces of a body
BODY_SECONDS = 600.0
READ_SECONDS = 300.0  # for a piece of an answer; a part of a video has 4 MB


class BoundedHttp(HttpToolsProtocol):
    """Closes a connection on which the head of a request takes too long, or too much."""

    _clock: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _in_request = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        if not self._in_request and self._clock is None:
            self._await_head()
        self._head_bytes += len(data)
        super().data_received(data)
        if self._clock and self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(b"431 Request Header Fields Too Large")

    def on_headers_complete(self) -> None:
        self._stop_clock()
        self._in_request = True
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        self._in_request = False
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_clock()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        self._head_bytes = 0
        self._clock = self.loop.call_later(HEAD_SECONDS, self._refuse, b"408 Request Timeout")

    def _stop_clock(self) -> None:
        if self._clock:
            self._clock.cancel()
            self._clock = None

    def _refuse(self, status: bytes) -> None:
        self._stop_clock()
        if not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            self.transport.close()


class SlowClients:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if len(scope["headers"]) > MAX_HEADERS:
            error = HTTPException(431, f"a request may have at most {MAX_HEADERS} headers")
            await refusal(Request(scope), error)(scope, receive, send)
            return
        body_ends = asyncio.get_running_loop().time() + BODY_SECONDS
        whole = gave_up = False

        async def receive_soon() -> Message:
            nonlocal whole
            if whole:  # what comes now is only that the client has left
                return await receive()
            try:
                async with asyncio.timeout_at(min(body_ends, asyncio.get_running_loop().time() + BODY_PAUSE_SECONDS)):
                    message = await receive()
            except TimeoutError:
                headers = {"Connection": "close"}
                raise HTTPException(408, "the rest of the request did not come in time", headers) from None
            whole = not message.get("more_body", False)
            return message

        async def send_soon(message: Message) -> None:
            nonlocal gave_up
            try:
                async with asyncio.timeout(READ_SECONDS):
                    await send(message)
            except TimeoutError:
                gave_up = True
                raise

        try:
            await self.app(scope, receive_soon, send_soon)
        except Exception:
            if not gave_up:
                raise
