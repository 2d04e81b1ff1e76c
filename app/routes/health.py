"""GET /health: can a picture become a video right now, and if not, what is missing."""

import time
from collections.abc import Callable
from typing import Any, Literal

from fastapi import Request, Response
from pydantic import BaseModel, Field

from app.intake.choose_engine import auto_engine
from app.router import create_router
from app.services import Caller, Services, ServicesDep
from core.engines.known import known_engines
from core.errors import KinoraError, QueueUnavailable
from core.ledger.workers import Worker
from core.process.machine import machine_id

router = create_router(dependencies=(), tags=["service"])

# What nobody has to have a key for must not cost four stores a question each time.
STRANGERS_SECONDS = 1.0


class WorkerInfo(BaseModel):
    worker_id: str
    device: str
    gpu: str | None = Field(description="The UUID of the GPU that it holds, as `nvidia-smi -L` shows it")
    engines: dict[str, dict[str, Any]]
    step_id: str | None = Field(description="What it works on now")
    metrics_port: int | None


class QueueInfo(BaseModel):
    waiting: int
    workers: list[WorkerInfo]


class Health(BaseModel):
    status: Literal["ok", "degraded", "down"] = Field(
        description="`degraded`: tasks are accepted but wait. `down`: nothing can be accepted"
    )
    stores: dict[str, str] = Field(description="`ok`, or what is wrong")
    engine: str | None = Field(description="What a request gets that names no engine")
    queues: dict[str, QueueInfo]
    problems: list[str]


@router.get("/health/live", summary="Is this process alive")
async def live() -> dict[str, str]:
    """This process answers. Says nothing of the rest."""
    return {"status": "ok"}


@router.get(
    "/health",
    summary="Can a picture become a video now",
    responses={503: {"model": Health, "description": "Degraded or down"}},
)
def health(request: Request, response: Response, services: ServicesDep) -> Health:
    """200 when everything that makes videos is there, else 503 and what is missing. A caller without a key, where
    keys are asked for, learns no reasons; what the workers work on is for an admin's key."""
    caller, kept = request.state.caller, request.app.state
    is_stranger = not (caller.admin or caller.owner)
    if not is_stranger or time.monotonic() - kept.examined_at > STRANGERS_SECONDS:
        kept.examined, kept.examined_at = examine(services), time.monotonic()
    found: Health = kept.examined
    response.status_code = 200 if found.status == "ok" else 503
    return visible_to(found, caller)


def visible_to(found: Health, caller: Caller) -> Health:
    """As much of it as the caller may know: where a store stands and how it failed is for an admin's key."""
    if caller.admin:
        return found
    stores = {name: "ok" if said == "ok" else "away" for name, said in found.stores.items()}
    if not caller.owner:
        return Health(status=found.status, stores=stores, engine=None, queues={}, problems=[])
    away = [f"{name} is away" for name, said in stores.items() if said != "ok"]
    problems = away + found.problems[len(away) :]  # those of the stores come first
    queues = {name: queue.model_copy(deep=True) for name, queue in found.queues.items()}
    for worker in [worker for queue in queues.values() for worker in queue.workers]:
        worker.step_id = None
    return found.model_copy(update={"stores": stores, "problems": problems, "queues": queues})


def examine(services: Services) -> Health:
    checks: dict[str, Callable[[], None]] = {
        "ledger": services.ledger.ping,
        "storage": services.storage.ping,
        "redis": services.queue.ping,
    }
    stores = {name: _check(check) for name, check in checks.items()}
    problems = [f"{name}: {said}" for name, said in stores.items() if said != "ok"]
    if stores["ledger"] != "ok":
        return Health(status="down", stores=stores, engine=None, queues={}, problems=problems)

    if stores["redis"] == "ok":
        problems += _wrong_keys(services)
    workers = [worker for worker in services.ledger.workers() if worker.alive]
    engine = services.settings.engine
    engine = auto_engine(services.settings, services.ledger.workers()) if engine == "auto" else engine
    problems += _worker_problems(services, engine, workers)
    if not services.ledger.keepers():
        problems.append("no keeper is alive: what dead workers leave is not taken over, callbacks are not sent")
    status: Literal["ok", "degraded", "down"] = "degraded" if problems else "ok"
    if stores["storage"] != "ok":
        status = "down"
    queues = _queues(services, workers)
    # It changes no status: whoever may ask for a clip could have all others believe that nothing is made here.
    problems += [
        f"{queue.waiting} wait{'s' * (queue.waiting == 1)} in the queue {name}, and no live worker does its steps"
        for name, queue in queues.items()
        if queue.waiting and not any(worker.serves(name) for worker in workers)
    ]
    return Health(status=status, stores=stores, engine=engine, queues=queues, problems=problems)


def _check(check: Callable[[], None]) -> str:
    try:
        check()
    except KinoraError as error:
        return error.message
    return "ok"


def _wrong_keys(services: Services) -> list[str]:
    try:
        found = services.queue.wrong_keys()
    except QueueUnavailable as error:
        return [f"redis: {error.message}"]
    return [f"redis_key_wrong: {name}: {fault}; the keeper deletes it" for name, fault in found.items()]


def _queues(services: Services, workers: list[Worker]) -> dict[str, QueueInfo]:
    waiting = services.ledger.waiting()
    names = {engine.queue for engine in known_engines(services.settings).values()}
    names |= {worker.queue for worker in workers} | set(waiting)
    return {
        name: QueueInfo(
            waiting=waiting.get(name, (0, 0.0))[0],
            workers=[
                WorkerInfo(**{field: getattr(worker, field) for field in WorkerInfo.model_fields})
                for worker in workers
                if worker.queue == name
            ],
        )
        for name in sorted(names)
    }


def _worker_problems(services: Services, engine: str, workers: list[Worker]) -> list[str]:
    problems = []
    if not any(worker.engines.get(engine, {}).get("ready") for worker in workers):
        problems.append(f"no live worker is ready for the engine {engine}")
    on_sqlite = services.ledger.database.dialect.name == "sqlite"
    if on_sqlite and any(worker.machine != machine_id() for worker in workers):
        problems.append("a worker runs on another machine: SQLite serves one machine only, set DATABASE_URL")
    return problems
