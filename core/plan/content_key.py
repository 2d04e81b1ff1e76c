"""Content keys: steps with the same key make the same, so that what one has made need not be made again."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from core.config.settings import Settings
from core.engines.known import find_engine, motion_engine
from core.plan.graph import Graph
from core.plan.steps import Params, RenderClip, SmoothClip

VERSIONS = {"clip": 2, "smooth": 2, "join": 2}
"""Of each kind of step: raised when what it makes of the same parameters changes, as with another encoder setting."""


def content_keys(graph: Graph, inputs: Mapping[str, str], settings: Settings) -> dict[str, str]:
    """Return the content key of each step of `graph`, by name. `inputs` are the SHA-256 of the task's, by role."""
    keys: dict[str, str] = {}
    for step in graph.steps:
        role = step.params.input_role
        described = {
            "kind": step.params.kind,
            "version": VERSIONS[step.params.kind],
            "params": step.params.model_dump(mode="json", exclude_none=True),
            "model": model_of(step.params, settings),
            "input": role and inputs[role],
            "needs": [keys[name] for name in step.needs],
        }
        keys[step.name] = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
    return keys


def model_of(params: Params, settings: Settings) -> dict[str, Any] | None:
    """Return what of an engine's entry decides what it makes."""
    if isinstance(params, RenderClip):
        engine = find_engine(params.engine, settings)
        weights = {"model": engine.model, "revision": engine.revision, "unet": engine.unet and asdict(engine.unet)}
        is_fast = params.settings.profile == "fast"
        return weights | {"approximation": asdict(engine.approximation) if is_fast and engine.approximation else None}
    motion = motion_engine(settings) if isinstance(params, SmoothClip) else None
    return {"model": motion.model, "revision": motion.revision} if motion else None
