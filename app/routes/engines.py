"""GET /engines: what can be asked for here."""

from typing import Any

from pydantic import BaseModel, Field

from app.errors import documented
from app.intake.choose_engine import auto_engine, unavailable_reason
from app.router import create_router
from app.services import ServicesDep
from core import errors
from core.engines.base import Engine, Limit, Range, UnetFile
from core.engines.known import known_engines
from core.ledger.workers import Worker
from core.requests.clip import Clip
from core.requests.resolve import operator_defaults

router = create_router(tags=["service"])

FRACTIONS = (float, float | None)


class EngineInfo(BaseModel):
    name: str
    summary: str
    licence: str
    model: str | None
    revision: str | None
    unet: UnetFile | None = Field(description="What stands in place of the model's own UNet")
    queue: str
    gpu_memory_gb: float | None
    limits: dict[str, dict[str, Any]] = Field(description="Of each parameter: type, minimum and maximum, or choices")
    defaults: dict[str, Any]
    available: bool
    reason: str | None = Field(description="Why it cannot run here")


class EngineList(BaseModel):
    default: str = Field(description="What a request gets that names no engine")
    engines: list[EngineInfo]


@router.get("/engines", summary="What can be asked for", responses=documented(errors.LedgerUnavailable))
def engines(services: ServicesDep) -> EngineList:
    """Each engine with its limits, its defaults, and whether it can run here."""
    workers = services.ledger.workers()
    default = services.settings.engine
    return EngineList(
        default=auto_engine(services.settings, workers) if default == "auto" else default,
        engines=[
            engine_info(engine, engine.defaults | operator_defaults(engine, services.settings), workers)
            for engine in known_engines(services.settings).values()
        ],
    )


def engine_info(engine: Engine, defaults: dict[str, Any], workers: list[Worker]) -> EngineInfo:
    served = any(worker.alive and engine.name in worker.engines for worker in workers)
    reason = unavailable_reason(engine, workers) if served else f"no worker on the queue {engine.queue} has reported"
    return EngineInfo(
        name=engine.name,
        summary=engine.summary,
        licence=engine.licence,
        model=engine.model,
        revision=engine.revision,
        unet=engine.unet,
        queue=engine.queue,
        gpu_memory_gb=engine.gpu_memory_gb,
        limits={name: _limit(name, limit) for name, limit in engine.limits.items()},
        defaults=defaults,
        available=reason is None,
        reason=reason,
    )


def _limit(name: str, limit: Limit) -> dict[str, Any]:
    if isinstance(limit, Range):
        kind = "number" if Clip.model_fields[name].annotation in FRACTIONS else "integer"
        found: dict[str, Any] = {"type": kind, "minimum": limit.low, "maximum": limit.high}
        return found | ({"multiple_of": limit.step} if limit.step else {})
    return {"choices": list(limit.values)}
