"""Counts each request, and writes a line in the log for those that matter; gives it an id that stands in all lines
that belong to it, and in the answer. Whatever goes wrong further in is answered here, with nothing of our insides."""

import re
import time

import structlog
from fastapi import Request
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import unexpected
from app.middleware.base import Middleware
from app.middleware.http_metrics import HttpMetrics
from app.middleware.slow_clients import break_off
from core.errors import KinoraError
from core.ids import is_id, new_id

GIVEN_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

log = structlog.get_logger(__name__)


class RequestLog(Middleware):
    def __init__(self, app: ASGIApp, metrics: HttpMetrics) -> None:
        super().__init__(app)
        self.metrics = metrics

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        request, status, begun, counted = Request(scope), 0, time.perf_counter(), False
        given = request.headers.get("x-request-id", "")
        request_id = given if GIVEN_ID.fullmatch(given) else new_id()
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)

        def count() -> None:
            nonlocal counted
            if not counted:
                self.metrics.count(request.method, route_of(scope), status or 500, time.perf_counter() - begun)
            counted = True

        async def remember(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                if headers.get("content-type", "").startswith("text/event-stream"):
                    count()  # it lasts for as long as somebody listens, which says nothing of how fast we are
            await send(message)

        try:
            await self.app(scope, receive, remember)
        except Exception as error:
            if status and has_left(error):
                log.info("client_left", route=route_of(scope))
                return
            if status and isinstance(error.__cause__, KinoraError):  # what is sent is cut short, or its store is away
                code, reason = error.__cause__.code, error.__cause__.message
                log.warning("answer_broken_off", route=route_of(scope), code=code, reason=reason)
                if break_off(request):
                    return
                raise
            log.exception("request_failed", method=request.method, route=route_of(scope))
            if status:  # too late for another answer
                raise
            await unexpected(request)(scope, receive, remember)
        finally:
            count()
            if request.method not in ("GET", "HEAD") or status >= 400:
                log.info(
                    "request_answered",
                    method=request.method,
                    route=route_of(scope),
                    status=status,
                    seconds=round(time.perf_counter() - begun, 4),
                    **{name: value for name, value in scope.get("path_params", {}).items() if is_id(str(value))},
                )


def has_left(error: Exception) -> bool:
    """Whether the answer failed because nobody is there to take it. The last is uvloop's, which has no type of its
    own."""
    return isinstance(error, (OSError, ClientDisconnect)) or "the handler is closed" in str(error)


def route_of(scope: Scope) -> str:
    """The route's template. The path itself may hold anything, and its query the signature of a link."""
    return str(getattr(scope.get("route"), "path", "none"))
