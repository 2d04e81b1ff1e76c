"""Bounds on how slowly a client may send and read, so that a few thousand of them do not hold everything there is. A
connection on which nothing is asked stays for the next request, unless somebody else needs its place: then those go
first that are quiet for longest, and after them those whose request has been coming for longest.

The head of a request and the reading of its answer are bounded by `BoundedHttp`, uvicorn's own protocol with two
clocks; the body by `SlowClients`.
"""

import asyncio
from functools import partial
from http import HTTPStatus

from fastapi import Request
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.errors import CODES, error_body, refusal
from app.middleware.base import Middleware
from app.middleware.upgrade import OneProtocolParser

KEEP_ALIVE_SECONDS = 75  # longer than the pools of clients and proxies keep one that they may send on at any moment
HEAD_SECONDS = 15.0
MAX_HEAD_BYTES = 64 * 1024  # beside what comes in one read, at most 256 KB
MAX_HEADERS = 100
MANY_PIECES, LEAST_PIECE_BYTES = 5000, 16  # chunks of a byte take as long as pieces of 64 KB
MAX_PIPELINED = 100  # requests that wait for the answer to the one before them
WINDOW_SECONDS, LEAST_BYTES = 30.0, 64 * 1024  # of waiting: in each so much of a body comes, or its end
BODY_SECONDS = 600.0
READ_SECONDS = 300.0  # for a piece of an answer; a part of a video has 128 KB


class BoundedHttp(HttpToolsProtocol):
    """Closes a connection on which a head takes too long or too much, or whose client does not read."""

    _head_clock: asyncio.TimerHandle | None = None
    _read_clock: asyncio.TimerHandle | None = None
    _head_bytes = 0  # since a request began, or a piece of its body came: head, trailers, a line without end
    _pieces = _piece_bytes = 0  # of the body that comes
    _answering: RequestResponseCycle | None = None
    _quiet_since = 0.0  # since its last answer ended, or its next request began to come

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # narrower
        super().connection_made(transport)
        self.parser = OneProtocolParser(self)
        transport.set_write_buffer_limits(high=0)  # writing is paused whenever something is left to read
        self._await_head()
        if self._are_full():
            self._close_another()

    def data_received(self, data: bytes) -> None:
        if self._is_idle() and self._head_clock is None:
            self._await_head()
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes > MAX_HEAD_BYTES or len(self.pipeline) > MAX_PIPELINED:
            self._refuse(431, "the head of a request may have at most 64 KiB, and few requests may wait")

    def on_message_begin(self) -> None:
        self._head_bytes = self._pieces = self._piece_bytes = 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        # One more than allowed, for SlowClients to refuse; and those that say where the body ends, wherever they stand.
        if len(self.headers) <= MAX_HEADERS or name.lower() in (b"content-length", b"transfer-encoding"):
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():  # the parser reads it once more
            return
        self._stop_head_clock()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def on_body(self, body: bytes) -> None:
        self._head_bytes = 0
        self._pieces, self._piece_bytes = self._pieces + 1, self._piece_bytes + len(body)
        if self._pieces > MANY_PIECES and self._piece_bytes < self._pieces * LEAST_PIECE_BYTES:
            self.transport.abort()
        elif not self.transport.is_closing():
            super().on_body(body)

    def pause_writing(self) -> None:
        # Closing would wait for the client to read what is left; aborting does not.
        self._read_clock = self.loop.call_later(READ_SECONDS, self.transport.abort)
        super().pause_writing()

    def resume_writing(self) -> None:
        if self._read_clock:
            self._read_clock.cancel()
            self._read_clock = None
        super().resume_writing()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answering = cycle
        cycle.scope["state"]["break_off"] = partial(self._break_off, cycle)
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._quiet_since = self.loop.time()
        if self._are_full() and self._is_kept():
            self.timeout_keep_alive_handler()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answering:  # uvicorn tells only the last request in the pipeline, and the others write on
            self._answering.disconnected = True
            self._answering.message_event.set()
        self._stop_head_clock()
        self.resume_writing()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        if not self._is_idle() and self._answering:  # for whoever waits for something: see `is_ending`
            self._answering.scope["state"]["is_ending"] = True
        super().shutdown()

    def _break_off(self, cycle: RequestResponseCycle) -> None:
        cycle.disconnected = True  # so that nobody waits for the rest of the answer
        self.transport.close()

    def _are_full(self) -> bool:
        """Whether there are so many connections that requests are answered 503."""
        return self.limit_concurrency is not None and len(self.connections) >= self.limit_concurrency

    def _is_kept(self) -> bool:
        """Whether the connection is there for a next request and nothing else."""
        return self.timeout_keep_alive_task is not None and not self.transport.is_closing()

    def _close_another(self) -> None:
        others = [each for each in self.connections if isinstance(each, BoundedHttp) and each is not self]
        quiet = [each for each in others if each._is_kept() or each._is_asking()]
        if quiet:
            first = min(quiet, key=lambda each: (not each._is_kept(), each._quiet_since))
            if first._is_kept():
                first.timeout_keep_alive_handler()
            else:
                first._refuse(408, "the request did not come in time, and others need its place")
            self.connections.discard(first)  # at once: the new one may have sent its request already

    def _is_asking(self) -> bool:
        """Whether nothing is under way but the head of a request, which is not whole."""
        return self._head_clock is not None and self._is_idle() and not self.transport.is_closing()

    def _is_idle(self) -> bool:
        """Whether every request whose head has come is answered."""
        return self.cycle is None or self.cycle.response_complete

    def _await_head(self) -> None:
        self._quiet_since = self.loop.time()
        self._head_clock = self.loop.call_later(HEAD_SECONDS, self._refuse, 408, "the request did not come in time")

    def _stop_head_clock(self) -> None:
        if self._head_clock:
            self._head_clock.cancel()
            self._head_clock = None

    def send_400_response(self, msg: str) -> None:
        if self.cycle and self.cycle.more_body and not (self.cycle.response_started or self.pipeline):
            self.cycle.disconnected = True  # only its head could be read, and what makes the answer need not go on
            self.cycle.message_event.set()
            self.cycle.response_complete = True
        self._refuse(400, "what came is no request of HTTP/1.1")

    def _refuse(self, status: int, message: str) -> None:
        self._stop_head_clock()
        if not self._is_idle():  # an answer is under way, and cannot be followed by another
            self.transport.abort()
        elif not self.transport.is_closing():
            self.transport.write(raw_refusal(status, message))
            self.transport.close()


def raw_refusal(status: int, message: str) -> bytes:
    """Return the whole answer to what is no request yet."""
    body = error_body(status, CODES.get(status, "bad_request"), message, None).model_dump_json().encode()
    lines = [
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "Connection: close",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def is_ending(request: Request) -> bool:
    """Whether this process only answers what is under way any more, and then ends."""
    return getattr(request.state, "is_ending", False)


def break_off(request: Request) -> bool:
    """End the connection in the middle of an answer, so that its client does not take it for whole. Return whether this
    server can: with another, only an exception does."""
    end = getattr(request.state, "break_off", None)
    if end:
        end()
    return end is not None


class SlowClients(Middleware):
    """Refuses a request with too many headers, or whose body comes too slowly."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if len(scope["headers"]) > MAX_HEADERS:
            error = HTTPException(431, f"a request may have at most {MAX_HEADERS} headers")
            await refusal(Request(scope), error)(scope, receive, send)
            return
        time = asyncio.get_running_loop().time
        body_ends, window_left = time() + BODY_SECONDS, WINDOW_SECONDS
        whole, in_window = False, 0

        async def receive_soon() -> Message:
            nonlocal whole, in_window, window_left
            if whole:  # what comes now is only that the client has left
                return await receive()
            if in_window >= LEAST_BYTES:
                in_window, window_left = 0, WINDOW_SECONDS
            asked_at = time()
            try:
                async with asyncio.timeout_at(min(body_ends, asked_at + window_left)):
                    message = await receive()
            except TimeoutError:
                headers = {"Connection": "close"}
                raise HTTPException(408, "the rest of the request did not come in time", headers) from None
            whole = not message.get("more_body", False)
            in_window += len(message.get("body", b""))
            window_left -= time() - asked_at  # and not what this server took for what had come
            return message

        await self.app(scope, receive_soon, send)
