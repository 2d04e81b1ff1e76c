"""Counts requests and their seconds by route. With several API processes the figures are summed through a folder."""

import os
import time

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MULTIPROCESS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # read by prometheus_client when it is imported


class HttpMetrics:
    def __init__(self) -> None:
        self._own = CollectorRegistry()
        self.requests = Counter(
            "kinora_http_requests", "Requests answered", ["method", "route", "status"], registry=self._own
        )
        self.seconds = Histogram("kinora_http_seconds", "Seconds to answer", ["method", "route"], registry=self._own)

    def registry(self) -> CollectorRegistry:
        """What to show: this process's own figures, or all processes' together."""
        if MULTIPROCESS_FOLDER not in os.environ:
            return self._own
        shared = CollectorRegistry()
        MultiProcessCollector(shared)  # type: ignore[no-untyped-call]  # a class without types
        return shared


class CountRequests:
    def __init__(self, app: ASGIApp, metrics: HttpMetrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, begun = 500, time.perf_counter()

        async def remember(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, remember)
        finally:
            # The route's template, never the path itself: task ids would make a time series each.
            route = getattr(scope.get("route"), "path", "none")
            method = scope["method"] if route != "none" else "none"
            self.metrics.requests.labels(method, route, status).inc()
            self.metrics.seconds.labels(method, route).observe(time.perf_counter() - begun)
