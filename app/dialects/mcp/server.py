"""The Model Context Protocol at /mcp.

Each request stands for itself, so that any of several API server processes may answer it. Who calls is found out by the
layers around, as everywhere.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from app.router import create_router
from core.concurrency import ConcurrencyLimit
from core.config.settings import Settings

if TYPE_CHECKING:
    from app.dialects.mcp.tools import SessionManagers

EXCHANGES = 100  # at once
JSON, EVENTS = b"application/json", b"application/json, text/event-stream"
# Of JSON-RPC's codes those of a body that is no message, which the library tells in pydantic's words.
NO_JSON, NO_MESSAGE = -32700, -32600
WORDS = {
    NO_JSON: "the body is no JSON",
    NO_MESSAGE: "the body must be one JSON-RPC message, no list: an object with jsonrpc, which is 2.0, with method as "
    "text, params as an object, and an id if it asks for an answer",
}


class ExchangeRoute(APIRoute):
    media_types = ("application/json",)


router = create_router(route_class=ExchangeRoute)


class McpServer:
    """Loads the tools of app/dialects/mcp/tools.py at the first request, and keeps them until the app ends."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.exchanges = ConcurrencyLimit(EXCHANGES, "as many speak MCP as may at once")
        self._wanted = asyncio.Event()
        self._managers: asyncio.Future[SessionManagers] = asyncio.get_running_loop().create_future()

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Answer requests until the block ends."""
        serving = asyncio.create_task(self._serve())
        try:
            yield
        finally:
            serving.cancel()
            with suppress(asyncio.CancelledError):
                await serving

    async def handle_request(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._wanted.set()
        managers = await asyncio.shield(self._managers)  # a client that leaves takes them from nobody else
        named = b",".join(value for name, value in scope["headers"] if name == b"accept").lower()
        # One answer in JSON is what every client can read.
        manager, read = (managers.streaming, EVENTS) if b"text/event-stream" in named else (managers.json, JSON)
        # The library refuses whoever does not name all that it might answer with.
        headers = [(name, value) for name, value in scope["headers"] if name != b"accept"]
        scope = {**scope, "headers": [*headers, (b"accept", read)]}
        await manager.handle_request(scope, receive, in_our_words(send))

    async def _serve(self) -> None:
        """Enter and leave the library's task group in one task, as it demands."""
        await self._wanted.wait()
        try:
            managers = await run_in_threadpool(self._load)
            async with managers.streaming.run(), managers.json.run():
                self._managers.set_result(managers)
                await asyncio.get_running_loop().create_future()  # until it is canceled
        except Exception as error:
            if self._managers.done():
                raise
            self._managers.set_exception(error)  # each request fails with it

    def _load(self) -> "SessionManagers":
        from app.dialects.mcp.tools import create_session_managers

        return create_session_managers(self.settings)


def no_message(said: bytes) -> dict[str, Any] | None:
    """Return our error for one of the library's that quotes pydantic; None for another."""
    if json.loads(said)["error"]["code"] == NO_JSON:
        return {"code": NO_JSON, "message": WORDS[NO_JSON]}
    return {"code": NO_MESSAGE, "message": WORDS[NO_MESSAGE]} if b"Validation error" in said else None


def in_our_words(send: Send) -> Send:
    """Send what the library answers, but for what pydantic says of a body that is no message."""
    held: list[Message] = []

    async def send_on(message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] == 400:
            held.append(message)
        elif held and (error := no_message(message["body"])):
            answer = JSONResponse({"jsonrpc": "2.0", "id": None, "error": error}, 400)
            await send({**held.pop(), "headers": answer.raw_headers})
            await send({**message, "body": answer.body})
        else:
            for each in [*held, message]:
                await send(each)
            held.clear()

    return send_on


class Exchange(Response):
    """Reads the request and answers it as the protocol wants it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        server: McpServer = scope["app"].state.mcp
        with server.exchanges.slot(scope["state"]["caller"].owner):
            await server.handle_request(scope, receive, send)


@router.post("/mcp", include_in_schema=False)
async def mcp() -> Response:
    return Exchange()
