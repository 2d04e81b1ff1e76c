"""Getting a diffusers pipeline from a folder or from Hugging Face, and saying in one line why that did not work."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.config.settings import Settings
from core.engines.base import Engine
from core.errors import EngineUnavailable, KinoraError
from worker.engines.causes import causes, first_line

if TYPE_CHECKING:
    import torch

# What a Stable Video Diffusion pipeline is made of.
CLASSES = {
    "_class_name": "StableVideoDiffusionPipeline",
    "image_encoder": r"transformers\.CLIPVisionModelWithProjection",
    "feature_extractor": r"transformers\.CLIPImageProcessor\w*",
    "unet": r"diffusers\.UNetSpatioTemporalConditionModel",
    "vae": r"diffusers\.AutoencoderKLTemporalDecoder",
    "scheduler": r"diffusers\.\w+Scheduler",
}
WITH_WEIGHTS = ("image_encoder", "unet", "vae")


def quieten_libraries() -> None:
    """A worker's log holds its own lines only; what goes wrong in a library comes out as an exception."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for logging in (diffusers_logging, transformers_logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()


def fetch(model: str, revision: str | None, dtype: "torch.dtype", **given: Any) -> Any:
    """The pipeline from a folder, the cache or the hub; never from pickled weights or with code from there.

    `given`: parts to take in place of the model's own, whose weights are then neither fetched nor needed.
    """
    import torch

    check_folder(model, [part for part in WITH_WEIGHTS if part not in given])
    if dtype == torch.float16:
        try:
            return load(model, revision, dtype, variant="fp16", **given)
        except ValueError:
            pass  # no files in half precision: the full ones are cast. Any other reason comes again below.
    return load(model, revision, dtype, variant=None, **given)


def load(model: str, revision: str | None, dtype: "torch.dtype", variant: str | None, **given: Any) -> Any:
    from diffusers import StableVideoDiffusionPipeline

    options = given | {"variant": variant, "use_safetensors": True, "trust_remote_code": False}
    folder = model
    if not Path(model).is_dir():
        folder = StableVideoDiffusionPipeline.download(model, revision=revision, **options)
    check_index(Path(folder), model)
    return StableVideoDiffusionPipeline.from_pretrained(folder, dtype=dtype, **options)


def check_folder(model: str, parts: list[str]) -> None:
    """Raises EngineUnavailable if `model` is a folder without safetensors of one of the `parts`, or neither a folder
    nor a hub's name."""
    folder = Path(model)
    if not folder.is_dir():
        if model.count("/") != 1 or model.startswith((".", "~")):
            raise EngineUnavailable(f"set MODEL_ID to a folder or a name on Hugging Face: there is no folder {model}")
        return
    for part in parts:
        if not any(folder.glob(f"{part}/*.safetensors")):
            raise EngineUnavailable(f"put safetensors into {folder / part}: other weights (.bin, .ckpt) are not read")


def check_index(folder: Path, model: str) -> None:
    """Raises EngineUnavailable if model_index.json names other classes: to load one is to run its code."""
    index = json.loads((folder / "model_index.json").read_bytes())
    for part, expected in CLASSES.items():
        named = index.get(part)
        name = ".".join(map(str, named)) if isinstance(named, list | tuple) else str(named)
        if not re.fullmatch(expected, name):
            raise EngineUnavailable(f"use another model: {model} has {part} {name}, which is not loaded")


def advice(exc: Exception, engine: Engine, settings: Settings) -> str:
    """One line on what the operator can do about `exc`, which came up while `engine` was loading."""
    from worker.engines.gpu_faults import is_out_of_memory

    is_set = engine.model == settings.model_id  # the others are fixed
    elsewhere = ", or set MODEL_ID to a local folder" if is_set else ""
    for cause in causes(exc):
        if isinstance(cause, MemoryError) or is_out_of_memory(cause):
            return f"free some memory: {engine.model} needs about {engine.gpu_memory_gb} GB on the GPU"
        if isinstance(cause, KinoraError):
            return cause.message
        for kinds, line in hub_hints(engine, is_set).items():
            if isinstance(cause, kinds):
                return line + elsewhere
    return f"check {engine.model}, it does not load: {type(exc).__name__}: {first_line(exc)}"


def hub_hints(engine: Engine, is_set: bool) -> dict[tuple[type[BaseException], ...], str]:
    """What to do about each way in which Hugging Face gives nothing, the special before the general."""
    import httpx2  # what huggingface_hub speaks HTTP with
    from huggingface_hub import errors

    revised = "set MODEL_REVISION" if is_set else "look for a newer Kinora"
    page = f"https://huggingface.co/{engine.model}"
    absent = (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError, httpx2.TransportError)
    return {
        (errors.GatedRepoError,): f"accept the licence at {page} and set HF_TOKEN to a token of that account",
        (errors.RepositoryNotFoundError,): f"check the name and HF_TOKEN: {page} is not there for this worker",
        (errors.RevisionNotFoundError,): f"{revised}: {page} has no revision {engine.revision}",
        absent: f"let this worker reach Hugging Face once: {engine.model} is not in its cache (HF_HOME)",
        (errors.HfHubHTTPError,): f"check HF_TOKEN and the licence at {page}: Hugging Face refused",
    }
