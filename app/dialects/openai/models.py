"""GET /v1/models: the engines that can run here, as OpenAI lists its models."""

from typing import Literal

from pydantic import BaseModel

from app.errors import documented
from app.intake.choose_engine import unavailable_reason
from app.router import create_router
from app.services import Services, ServicesDep
from core import errors
from core.engines.known import known_engines

router = create_router(prefix="/v1/models", tags=["openai"])


class Model(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int = 0  # which nobody here knows
    owned_by: str = "kinora"


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]


@router.get("", summary="List the models", responses=documented(errors.LedgerUnavailable))
def list_models(services: ServicesDep) -> ModelList:
    """The engines that can run here; `GET /engines` says more of them, and of those that cannot."""
    return ModelList(data=models(services))


@router.get(
    "/{model}",
    summary="Whether a model is there",
    responses=documented(errors.ModelNotFound, errors.InvalidParameter, errors.LedgerUnavailable),
)
def retrieve_model(model: str, services: ServicesDep) -> Model:
    for found in models(services):
        if found.id == model:
            return found
    raise errors.ModelNotFound(f"there is no model {model!r} here", param="model")


def models(services: Services) -> list[Model]:
    workers = services.ledger.workers()
    return [
        Model(id=engine.name)
        for engine in known_engines(services.settings).values()
        if any(worker.alive and engine.name in worker.engines for worker in workers)
        and unavailable_reason(engine, workers) is None
    ]
