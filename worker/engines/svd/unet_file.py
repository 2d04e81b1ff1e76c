"""A UNet whose weights are one file, in place of those that a model comes with."""

from textwrap import shorten
from typing import Any

import torch
from diffusers import UNetSpatioTemporalConditionModel
from safetensors import SafetensorError
from safetensors.torch import load_file

from core.engines.base import Engine
from core.errors import EngineUnavailable


def read_unet(path: str, engine: Engine, dtype: torch.dtype) -> Any:
    """Built as the UNet of the engine's model, whose own weights are not looked at. Raises EngineUnavailable if the
    file has not exactly the weights that such a UNet has."""
    config = UNetSpatioTemporalConditionModel.load_config(engine.model, subfolder="unet", revision=engine.revision)
    with torch.device("meta"):  # without memory, nor time for random weights
        unet = UNetSpatioTemporalConditionModel.from_config(config)
    try:
        unet.load_state_dict(load_file(path), assign=True)
    except (RuntimeError, SafetensorError) as exc:
        advice = f"delete {path} to fetch it anew, or set MODEL_ID to the model that it was made of"
        found = shorten(str(exc), 250)  # torch names each key that is missing, and a UNet has a thousand
        raise EngineUnavailable(f"{advice}: it is no UNet like that of {engine.model}: {found}") from exc
    return unet.to(dtype).eval()
