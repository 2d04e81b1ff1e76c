"""Which models are on the GPU."""

from itertools import chain
from operator import attrgetter
from typing import Any

import torch
from torch import nn

MODELS = {
    "encode_image": ("image_encoder", "vae.encoder", "vae.quant_conv"),
    "denoise": ("unet",),
    "decode": ("vae.decoder",),
}
"""Of the pipeline, by the phase that uses them."""


def weights_of(pipeline: Any) -> dict[str, int]:
    """Bytes, of each phase."""
    return {phase: sum(map(size_of, models_of(pipeline, phase))) for phase in MODELS}


def bytes_on_gpu(pipeline: Any) -> int:
    """Return the bytes of its weights that are on the GPU now."""
    models = [model for phase in MODELS for model in models_of(pipeline, phase)]
    return sum(tensor.nbytes for model in models for tensor in tensors_of(model) if tensor.device.type == "cuda")


def place(pipeline: Any, phase: str, device: str, alone: bool) -> None:
    """The models of `phase` on `device`, before it begins; the others there too, or on the CPU where it is `alone`."""
    others = [model for other in MODELS if other != phase for model in models_of(pipeline, other)]
    for model in others:
        move(model, "cpu" if alone else device)
    if device == "cuda":
        torch.cuda.empty_cache()  # holes of the sizes of the phase before are of little use to this one
    for model in models_of(pipeline, phase):
        move(model, device)


def models_of(pipeline: Any, phase: str) -> list[nn.Module]:
    return [attrgetter(name)(pipeline) for name in MODELS[phase]]


def move(model: nn.Module, device: str) -> None:
    """All of it must be asked, since memory may have run out halfway the last time."""
    if any(tensor.device.type != device for tensor in tensors_of(model)):
        model.to(device)


def size_of(model: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in tensors_of(model))


def tensors_of(model: nn.Module) -> "chain[torch.Tensor]":
    return chain(model.parameters(), model.buffers())
