"""The engines Kinora knows, with what the operator has set of them."""

from dataclasses import replace

from core.config.settings import Settings
from core.engines.base import Engine
from core.engines.camera import CAMERA
from core.engines.rife import RIFE
from core.engines.svd import SVD, SVD_XT, TURBO
from core.errors import InvalidParameter


def known_engines(settings: Settings) -> dict[str, Engine]:
    """Return all entries by name; `MODEL_ID` and `MODEL_REVISION` apply to `svd-xt`, and to what `turbo` shares with
    it."""
    xt, turbo = (replace(each, model=settings.model_id, revision=settings.model_revision) for each in (SVD_XT, TURBO))
    entries = (xt, SVD, turbo, CAMERA)
    return {entry.name: entry for entry in entries}


def motion_engine(settings: Settings) -> Engine | None:
    """Return the entry of what draws frames in between, if its weights are configured."""
    return None if settings.rife_weights is None else replace(RIFE, model=str(settings.rife_weights))


def find_engine(name: str, settings: Settings) -> Engine:
    """Return the entry of that name. Raises InvalidParameter that lists the choices."""
    engines = known_engines(settings)
    if name not in engines:
        choices = ", ".join(["auto", *engines])
        raise InvalidParameter(f"engine must be one of {choices}; {name!r} is not known", param="engine")
    return engines[name]
