"""The Model Context Protocol at /mcp.

Each request stands for itself, so that any of several API server processes may answer it. Who calls is found out by the
layers around, as everywhere.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.router import create_router
from core.concurrency import ConcurrencyLimit
from core.config.settings import Settings

if TYPE_CHECKING:
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

EXCHANGES = 100  # at once


class ExchangeRoute(APIRoute):
    media_types = ("application/json",)


router = create_router(route_class=ExchangeRoute)


class McpServer:
    """Loads the tools of app/dialects/mcp/tools.py at the first request, and keeps them until the app ends."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.exchanges = ConcurrencyLimit(EXCHANGES, "as many speak MCP as may at once")
        self._wanted = asyncio.Event()
        self._manager: asyncio.Future[StreamableHTTPSessionManager] = asyncio.get_running_loop().create_future()

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
        manager = await asyncio.shield(self._manager)  # a client that leaves takes it from nobody else
        await manager.handle_request(scope, receive, send)

    async def _serve(self) -> None:
        """Enter and leave the library's task group in one task, as it demands."""
        await self._wanted.wait()
        try:
            manager = await run_in_threadpool(self._load)
            async with manager.run():
                self._manager.set_result(manager)
                await asyncio.get_running_loop().create_future()  # until it is canceled
        except Exception as error:
            if self._manager.done():
                raise
            self._manager.set_exception(error)  # each request fails with it

    def _load(self) -> "StreamableHTTPSessionManager":
        from app.dialects.mcp.tools import create_session_manager

        return create_session_manager(self.settings)


class Exchange(Response):
    """Reads the request and answers it as the protocol wants it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        server: McpServer = scope["app"].state.mcp
        with server.exchanges.slot(scope["state"]["caller"].owner):
            await server.handle_request(scope, receive, send)


@router.post("/mcp", include_in_schema=False)
async def mcp() -> Response:
    return Exchange()
