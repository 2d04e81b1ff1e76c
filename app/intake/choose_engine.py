"""Which engine makes a clip, and in which queue it is smoothed, by which workers are there."""

from app.services import Services
from core.config.settings import Settings
from core.engines.base import Engine
from core.engines.known import find_engine, known_engines
from core.errors import EngineUnavailable
from core.ledger.workers import Worker


def choose_engine(services: Services, name: str, workers: list[Worker]) -> Engine:
    """Raises InvalidParameter for an unknown name, EngineUnavailable if every worker says that it cannot run."""
    if name == "auto":
        name = auto_engine(services.settings, workers)
    engine = find_engine(name, services.settings)
    reason = unavailable_reason(engine, workers)
    if reason:
        raise EngineUnavailable(f"{engine.name} cannot run here: {reason}", param="engine")
    return engine


def auto_engine(settings: Settings, workers: list[Worker]) -> str:
    """The first engine that wants a GPU if a worker with CUDA was seen in the last day, alive or restarting;
    else the first that needs none."""
    has_cuda = any(worker.device.startswith("cuda") for worker in workers)
    return next(engine.name for engine in known_engines(settings).values() if engine.needs_cuda == has_cuda)


def unavailable_reason(engine: Engine, workers: list[Worker]) -> str | None:
    """None if a worker can run it, is about to, or none has reported yet: then the task waits for one."""
    said = [worker.engines[engine.name] for worker in workers if worker.alive and engine.name in worker.engines]
    if not said or any(report["ready"] or report["loading"] for report in said):
        return None
    return str(said[0]["reason"])


def smoothing_queue(engine: Engine, workers: list[Worker], settings: Settings) -> str:
    """Where motion is smoothed. With RIFE, by the engine's own workers, which have what it takes. Else by a worker that
    has no GPU to keep waiting, if there is one; elsewhere the engine's own do it, beside their next clip."""
    on_cpu = not settings.rife_weights and any(worker.serves("cpu") for worker in workers)
    return "cpu" if on_cpu else engine.queue
