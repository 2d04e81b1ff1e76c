"""GET /metrics for Prometheus: the service's totals out of the ledger, and this API server's HTTP figures."""

from collections.abc import Iterator

from fastapi import Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from app.errors import documented
from app.router import create_router
from app.routes.health import WorkerInfo, examine
from app.services import CallerDep, Services, ServicesDep
from core.engines.known import known_engines
from core.errors import AdminRequired
from core.ledger.counters import BOUNDS, Histogram

router = create_router(tags=["service"])

COUNTERS = {
    "tasks_created": "Tasks accepted",
    "tasks_finished": "Tasks that ended with a video",
    "tasks_failed": "Tasks that ended with an error",
    "tasks_canceled": "Tasks that were canceled",
}
HISTOGRAMS = {
    "task_waiting_seconds": "From acceptance to the first attempt",
    "task_running_seconds": "From the first attempt to the end, of finished tasks",
    "phase_seconds": "Time in each phase of a finished step",
}


@router.get(
    "/metrics",
    summary="Figures for Prometheus",
    response_class=Response,
    responses=documented(AdminRequired) | {200: {"content": {"text/plain": {}}}},
)
def metrics(request: Request, services: ServicesDep, caller: CallerDep) -> Response:
    """Prometheus text. The task figures are the same from every API process and survive restarts. They are of all
    callers together, so they are for an admin's key."""
    if caller.owner and not caller.admin:
        raise AdminRequired("the figures are those of all callers: this needs an admin's key")
    registry = CollectorRegistry()
    registry.register(ServiceCollector(services, whole=caller.admin))
    text = generate_latest(registry)
    if caller.admin:
        text += generate_latest(request.app.state.http_metrics.registry())
    return Response(text, media_type=CONTENT_TYPE_LATEST)


class ServiceCollector(Collector):
    def __init__(self, services: Services, whole: bool) -> None:
        """Not `whole`: which stores answer, and nothing of the tasks."""
        self.services, self.whole = services, whole

    def describe(self) -> list[Metric]:
        return []  # so that registering it does not ask the ledger

    def collect(self) -> Iterator[Metric]:
        health = examine(self.services)
        up = GaugeMetricFamily("kinora_store_up", "1 if the store answers", labels=["store"])
        for store, said in health.stores.items():
            up.add_metric([store], float(said == "ok"))
        yield up
        if health.stores["ledger"] != "ok" or not self.whole:
            return
        yield from self._queues({name: queue.workers for name, queue in health.queues.items()})
        yield from self._counters()
        yield self._deliveries()
        yield from self._histograms()

    def _queues(self, workers: dict[str, list[WorkerInfo]]) -> Iterator[Metric]:
        depth = GaugeMetricFamily("kinora_queue_depth", "Steps that wait", labels=["queue"])
        oldest = GaugeMetricFamily("kinora_queue_oldest_seconds", "How long the oldest has waited", labels=["queue"])
        alive = GaugeMetricFamily("kinora_workers", "Live workers", labels=["queue"])
        waiting = self.services.ledger.waiting()
        for name, found in workers.items():
            count, seconds = waiting.get(name, (0, 0.0))
            depth.add_metric([name], count)
            oldest.add_metric([name], seconds)
            alive.add_metric([name], len(found))
        keepers = GaugeMetricFamily("kinora_keepers", "Live keepers", value=self.services.ledger.keepers())
        yield from (depth, oldest, alive, keepers)

    def _counters(self) -> Iterator[Metric]:
        families = {
            name: CounterMetricFamily(f"kinora_{name}", text, labels=["engine"]) for name, text in COUNTERS.items()
        }
        # From nothing on, so that a rate sees the first task of an engine too.
        counts = {(name, engine): 0 for name in COUNTERS for engine in known_engines(self.services.settings)}
        for (name, engine), count in (counts | self.services.ledger.counters()).items():
            families[name].add_metric([engine], count)
        yield from families.values()

    def _deliveries(self) -> Metric:
        left = GaugeMetricFamily("kinora_deliveries", "Callbacks that did not arrive yet", labels=["status"])
        for status, count in self.services.ledger.deliveries.waiting().items():
            left.add_metric([status], count)
        return left

    def _histograms(self) -> Iterator[Metric]:
        families = {
            name: HistogramMetricFamily(
                f"kinora_{name}", text, labels=["engine", "phase"] if name == "phase_seconds" else ["engine"]
            )
            for name, text in HISTOGRAMS.items()
        }
        for (name, engine), found in self.services.ledger.histograms().items():
            family, _, phase = name.partition(":")
            labels = [engine, phase] if phase else [engine]
            families[family].add_metric(labels, cumulative(found), found.total)
        yield from families.values()


def cumulative(histogram: Histogram) -> list[tuple[str, float]]:
    """Prometheus wants each bucket to hold all that is at most its bound."""
    total, buckets = 0, []
    for bound in BOUNDS:
        total += histogram.counts[bound]
        buckets.append((bound, float(total)))
    return buckets
