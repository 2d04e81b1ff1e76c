"""What one worker process counts about itself, served on its own port. The service's totals come from the ledger."""

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector

from core.ledger.counters import SECONDS
from worker.metrics_server import MetricsServer

log = structlog.get_logger(__name__)

# Several workers on one machine share the setting: each takes the first free port from there on.
PORTS_TRIED = 32


class WorkerMetrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        labels = ["engine", "outcome"]
        self.steps = Counter("kinora_worker_steps", "Attempts that ended here", labels, registry=self.registry)
        self.phases = Histogram(
            "kinora_worker_phase_seconds",
            "Seconds in each phase of an attempt",
            ["engine", "phase"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.busy = Gauge("kinora_worker_busy", "1 while an attempt runs", registry=self.registry)
        self.engine_busy = Counter(
            "kinora_worker_engine_busy_seconds",
            "Seconds in which the engine rendered",
            ["engine"],
            registry=self.registry,
        )
        self.load = Gauge("kinora_worker_engine_load_seconds", "Seconds to load", ["engine"], registry=self.registry)
        self.loads = Counter("kinora_worker_engine_loads", "Times loaded", ["engine"], registry=self.registry)
        self.unloads = Counter(
            "kinora_worker_engine_unloads", "Times unloaded to make room", ["engine"], registry=self.registry
        )

    def count_load(self, engine: str, seconds: float) -> None:
        self.load.labels(engine).set(seconds)
        self.loads.labels(engine).inc()

    def count_unload(self, engine: str) -> None:
        self.unloads.labels(engine).inc()

    def serve(self, host: str, port: int) -> int | None:
        """Serve /metrics on the first free port from `port` on. Returns it, or None if none was free."""
        for candidate in range(port, port + PORTS_TRIED):
            try:
                MetricsServer(self.registry).start(host, candidate)
            except OSError:
                continue
            log.info("metrics_served", host=host, port=candidate)
            return candidate
        log.warning("metrics_not_served", reason=f"ports {port} to {port + PORTS_TRIED - 1} are all taken")
        return None
