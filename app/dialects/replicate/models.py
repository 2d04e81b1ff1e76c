"""Replicate's models: what a client asks for before it names one, or before it reads what one made."""

from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from app.dialects.replicate.predictions import PUBLIC_MODELS, engine_of
from app.errors import documented
from app.router import create_router
from app.services import LinksDep, ServicesDep
from core import errors
from core.errors import InvalidParameter, ModelNotFound

BEGAN = datetime(2023, 11, 21, tzinfo=UTC)
OUTPUT = {"type": "string", "format": "uri", "title": "Output"}  # one URL, and no list

router = create_router(tags=["replicate"])


class Version(BaseModel):
    id: str
    created_at: datetime = BEGAN
    cog_version: str = "0.8.6"
    openapi_schema: dict[str, Any] = {"components": {"schemas": {"Output": OUTPUT}}}


class VersionPage(BaseModel):
    previous: None = None
    next: None = None
    results: list[Version]


class Model(BaseModel):
    url: str = Field(description="Of this service's page")
    owner: str
    name: str
    visibility: Literal["public"] = "public"
    run_count: int = 0  # which nobody here counts
    latest_version: Version


ERRORS = documented(errors.ModelNotFound, errors.InvalidParameter)


@router.get("/v1/models/{owner}/{name}", summary="A model", responses=ERRORS)
def model(owner: str, name: str, services: ServicesDep, links: LinksDep) -> Model:
    """One of the public Stable Video Diffusion models, or an engine as `kinora/` and its name."""
    return Model(url=f"{links.base}/", owner=owner, name=name, latest_version=versions_of(owner, name, services)[0])


@router.get("/v1/models/{owner}/{name}/versions", summary="The versions of a model", responses=ERRORS)
def model_versions(owner: str, name: str, services: ServicesDep) -> VersionPage:
    """The one that there is."""
    return VersionPage(results=versions_of(owner, name, services))


@router.get("/v1/models/{owner}/{name}/versions/{version}", summary="A version of a model", responses=ERRORS)
def model_version(owner: str, name: str, version: str, services: ServicesDep) -> Version:
    """What a client asks for before it reads the output: that this is one URL, and no list."""
    engine_meant_by(version, services)
    return Version(id=version)


def versions_of(owner: str, name: str, services: ServicesDep) -> list[Version]:
    """Raises ModelNotFound."""
    ref = f"{owner}/{name}"
    return [Version(id=engine_meant_by(ref, services) or PUBLIC_MODELS.get(ref, name))]


def engine_meant_by(ref: str, services: ServicesDep) -> str | None:
    """As `engine_of`. Raises ModelNotFound: what a path names is there, or is not."""
    try:
        return engine_of(ref, services)
    except InvalidParameter as error:
        raise ModelNotFound(error.message, param=error.param) from error
