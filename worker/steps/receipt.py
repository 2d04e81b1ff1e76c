"""What is needed to make a clip again: written with every finished task."""

import platform
from dataclasses import asdict
from typing import Any

import av
import numpy as np
import PIL

from core.requests.clip import ClipSettings
from core.task import Artifact, Claim, MadeStep
from worker.attempt import Attempt
from worker.engines.base import Renderer
from worker.media.mp4 import encoder

NO_PARAMETERS = {"memory_plan", "goes_on", "prompt"}


def write_receipt(
    renderer: Renderer,
    versions: dict[str, str],
    settings: ClipSettings,
    crf: int,
    attempt: Attempt,
    input_sha256: str,
    video: Artifact,
) -> dict[str, Any]:
    """`versions` are the renderer's, as they were when it rendered. The prompt is not said: a receipt stands in the
    ledger with each step, the prompt once, at the task."""
    approximation = renderer.engine.approximation if settings.profile == "fast" else None
    libraries = {"python": platform.python_version(), "pillow": PIL.__version__, "numpy": np.__version__}
    libraries |= {"av": av.__version__} | versions
    return {
        "engine": renderer.engine.name,
        "model": renderer.engine.model,
        "revision": renderer.engine.revision,
        "parameters": settings.model_dump(exclude_none=True, exclude=NO_PARAMETERS) | {"quality": crf},
        "approximation": approximation and asdict(approximation),
        "seed": settings.seed,
        "device": renderer.device,
        "libraries": libraries,
        "encoder": encoder(),
        "input_sha256": input_sha256,
        "output_sha256": video.sha256,
        "output_bytes": video.bytes,
        "seconds": {name: round(seconds, 4) for name, seconds in attempt.seconds.items()},
        **({"threads": renderer.threads} if renderer.threads else {}),
        **({"kernels": renderer.kernels} if renderer.kernels else {}),
        **({"memory_plan": settings.memory_plan} if settings.memory_plan else {}),
        **({"unet": asdict(renderer.engine.unet)} if renderer.engine.unet else {}),
    }


def extend_receipt(
    made: MadeStep, claim: Claim, attempt: Attempt, video: Artifact, parameters: dict[str, Any]
) -> dict[str, Any]:
    """Return the receipt of what this attempt made of another step's video: that step's, with what is new."""
    before = {name: said for name, said in made.receipt.items() if name != "reused_from"}  # this is made anew
    seconds = {f"{claim.step.kind}_{name}": round(spent, 4) for name, spent in attempt.seconds.items()}
    return before | {
        "parameters": before.get("parameters", {}) | parameters,
        f"{made.step.kind}_sha256": before.get("output_sha256"),
        "output_sha256": video.sha256,
        "output_bytes": video.bytes,
        "seconds": before.get("seconds", {}) | seconds,
    }
