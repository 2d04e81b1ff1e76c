"""create_app(settings): the API server, built whole; nothing happens on import."""

import asyncio
import re
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.concurrency import run_in_threadpool
from starlette.middleware.cors import CORSMiddleware
from uvicorn.config import STARTUP_FAILURE

from app import errors, router
from app.dialects import mcp, openai, replicate, stability
from app.dialects.mcp.server import McpServer
from app.events import SnapshotPoller
from app.intake.form import PICTURES
from app.middleware.auth import Authentication
from app.middleware.body_limit import BodyLimit
from app.middleware.browser_guard import allowed_origins
from app.middleware.http_metrics import HttpMetrics
from app.middleware.json_bodies import JsonBodies
from app.middleware.limiter import Limiter
from app.middleware.prefix import Prefix, check_prefix
from app.middleware.request_log import RequestLog
from app.middleware.routing import Routing
from app.middleware.security_headers import SecurityHeaders
from app.middleware.single_headers import SingleHeaders
from app.middleware.slow_clients import SlowClients
from app.routes import engines, events, generate, health, metrics, preview, results, status, studio, webhooks
from app.services import Services
from core.config.settings import Settings, read_settings
from core.ledger.moves import Ledger
from core.ledger.startup import wait_for_ledger
from core.live_previews import LivePreviews
from core.process.logs import set_up_logs
from core.process.memory import giving_memory_back
from core.process.private_files import warn_of_open_places
from core.process.unusable import EXIT_UNUSABLE
from core.queue import StepQueue
from core.storage import Storage
from sandbox.decoder import Decoder

# How long to wait for the ledger before the port is opened without it.
LEDGER_SECONDS = 5.0

CORS: dict[str, Any] = {
    "allow_methods": ["GET", "POST", "DELETE"],
    "allow_headers": ["*"],  # each vendor's client sends some of its own; who may call is said by CORS_ORIGINS
}
EXPOSED_HEADERS = ["X-Request-ID", "Retry-After", "Content-Range", "ETag"]
EXPOSED_HEADERS += [f"X-RateLimit-{name}" for name in ("Limit", "Remaining", "Reset")]

ROUTES = (generate, status, events, preview, results)
SERVICE_ROUTES = (webhooks, engines, metrics, health)
DIALECTS = (openai.DIALECT, stability.DIALECT, replicate.DIALECT, mcp.DIALECT)

DESCRIPTION = """Kinora makes a video out of a picture, on your own machines.

`POST /generate` with a picture answers at once with a `task_id`. Ask `GET /status/{task_id}` until it is `finished`,
then get the MP4 from `GET /results/{task_id}`. Every error has the same shape, with a stable `code`."""


def create_app(settings: Settings | None = None, decoder: Decoder | None = None) -> FastAPI:
    """Return the API server; `decoder` is one that several share, and close. Raises InvalidParameter if the settings do
    not fit."""
    settings = settings or read_settings()
    # FastAPIOffline is FastAPI whose /docs loads nothing from other hosts.
    app: FastAPI = FastAPIOffline(
        title="Kinora",
        version="0.1.0",
        description=DESCRIPTION,
        lifespan=_lifespan,
    )
    app.state.settings = settings
    app.state.http_metrics = HttpMetrics()
    app.state.limiter = Limiter(settings)
    app.state.dialects = DIALECTS
    app.state.shared_decoder = decoder
    app.state.examined_at = float("-inf")
    errors.install(app)
    # Each is wrapped around those before it.
    uploads = re.compile("|".join(["/generate", *(dialect.uploads for dialect in DIALECTS)]))
    pictures = {*PICTURES, *(name for dialect in DIALECTS for name in dialect.pictures)}
    app.add_middleware(JsonBodies, uploads=uploads, pictures=pictures)
    app.add_middleware(BodyLimit, max_upload_mb=settings.max_upload_mb, uploads=uploads)
    app.add_middleware(Routing)
    app.add_middleware(Authentication, limiter=app.state.limiter)
    app.add_middleware(SlowClients)
    origins = allowed_origins(settings)
    if origins:
        exposed = EXPOSED_HEADERS + [header for dialect in DIALECTS for header in dialect.headers]
        app.add_middleware(CORSMiddleware, allow_origins=origins, expose_headers=exposed, **CORS)
    app.add_middleware(SingleHeaders)
    app.add_middleware(RequestLog, metrics=app.state.http_metrics)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(Prefix, public_url=settings.public_url)
    router.install(app, *(module.router for module in ROUTES))
    router.install(app, *(each for dialect in DIALECTS for each in dialect.routers))
    router.install(app, *(module.router for module in SERVICE_ROUTES))
    studio.install(app)
    router.answer_head(app)
    check_prefix(settings.public_url, app.routes)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings: Settings = app.state.settings
    set_up_logs(settings.log_format)
    ledger = Ledger(settings.resolved_database_url)
    queue = StepQueue(settings)
    app.state.limiter.share(queue.redis)
    decoder = app.state.shared_decoder or Decoder()
    app.state.services = Services(settings, ledger, Storage(settings.resolved_storage_url), queue, decoder)
    app.state.poller = SnapshotPoller(ledger, LivePreviews(queue.redis), settings.auth != "off")
    # Without its ledger the API server still answers: with 503, and with what is wrong.
    ended = threading.Event()
    # One of several processes: uvicorn starts another in its place, unless it ended with this.
    exit_code = STARTUP_FAILURE if settings.api_workers > 1 else EXIT_UNUSABLE
    waiting = asyncio.create_task(run_in_threadpool(wait_for_ledger, ledger, ended, exit_code))
    await asyncio.wait({waiting}, timeout=LEDGER_SECONDS)
    if waiting.done():
        waiting.result()  # raises what waiting cannot mend: tables that are newer than this code, say
    warn_of_open_places(settings.local_places)
    app.state.mcp = McpServer(settings)
    giving_back = asyncio.create_task(giving_memory_back())
    async with app.state.mcp.run():
        yield
    giving_back.cancel()
    ended.set()
    await waiting
    if decoder is not app.state.shared_decoder:
        decoder.close()
    queue.close()
    ledger.close()
