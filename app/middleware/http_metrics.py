"""Counts requests and their seconds by route. With several API processes the figures are summed through a folder."""

import os

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.multiprocess import MultiProcessCollector

MULTIPROCESS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # read by prometheus_client when it is imported


class HttpMetrics:
    def __init__(self) -> None:
        self._own = CollectorRegistry()
        self.requests = Counter(
            "kinora_http_requests", "Requests answered", ["method", "route", "status"], registry=self._own
        )
        self.seconds = Histogram("kinora_http_seconds", "Seconds to answer", ["method", "route"], registry=self._own)

    def count(self, method: str, route: str, status: int, seconds: float) -> None:
        """`route` is the template, never the path itself: task ids would make a time series each."""
        method = method if route != "none" else "none"
        self.requests.labels(method, route, status).inc()
        self.seconds.labels(method, route).observe(seconds)

    def registry(self) -> CollectorRegistry:
        """What to show: this process's own figures, or all processes' together."""
        if MULTIPROCESS_FOLDER not in os.environ:
            return self._own
        shared = CollectorRegistry()
        MultiProcessCollector(shared)  # type: ignore[no-untyped-call]  # a class without types
        return shared
