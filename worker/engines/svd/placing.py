"""Which models are on the GPU."""

from collections.abc import Iterator, MutableMapping
from itertools import chain
from operator import attrgetter
from typing import Any

import torch
from torch import nn
from torch.utils.weak import WeakTensorKeyDictionary

MODELS = {
    "encode_image": ("image_encoder", "vae.encoder", "vae.quant_conv"),
    "denoise": ("unet",),
    "decode": ("vae.decoder",),
}
"""Of the pipeline, by the phase that uses them."""

_masters: MutableMapping[torch.Tensor, torch.Tensor] = WeakTensorKeyDictionary()
"""What lies in the machine's memory of weights that go to the GPU and leave it again. They never change there, so what
leaves is dropped and never copied back."""


def weights_of(pipeline: Any) -> dict[str, int]:
    """Bytes, of each phase."""
    return {phase: sum(map(size_of, models_of(pipeline, phase))) for phase in MODELS}


def bytes_on_gpu(pipeline: Any) -> int:
    """Return the bytes of its weights that are on the GPU now."""
    models = [model for phase in MODELS for model in models_of(pipeline, phase)]
    return sum(tensor.nbytes for model in models for tensor in tensors_of(model) if tensor.device.type == "cuda")


def place(pipeline: Any, phase: str, device: str, alone: bool) -> None:
    """Move the models of `phase` to `device`; with `alone`, move all others to the CPU first."""
    others = [model for other in MODELS if other != phase for model in models_of(pipeline, other)]
    for model in others:
        if alone:
            take_away(model)
        else:
            move(model, device)
    if device == "cuda" and is_tight():
        torch.cuda.empty_cache()  # holes of the sizes of the phase before are of little use to this one
    for model in models_of(pipeline, phase):
        if alone:
            keep_masters(model, device)
        move(model, device)


def is_tight() -> bool:
    """Return whether less than a quarter of the GPU's memory is free. If more is, to give memory back and take it again
    would only cost time."""
    free, total = torch.cuda.mem_get_info()
    return bool(free < total / 4)


def keep_masters(model: nn.Module, device: str) -> None:
    """Note what of `model` lies in the machine's memory; pinned, so that a GPU fetches it itself."""
    for weights in model.parameters():
        if device == "cuda" and weights not in _masters:
            weights.data = _masters[weights] = pinned(weights.data.cpu())


def pinned(weights: torch.Tensor) -> torch.Tensor:
    """Return the same in memory that the system keeps where it is, if it gives so much."""
    try:
        return weights.pin_memory()
    except RuntimeError:
        return weights


def take_away(model: nn.Module) -> None:
    """Free what `model` has on the GPU."""
    for weights in model.parameters():
        if weights in _masters:
            weights.data = _masters[weights]
    move(model, "cpu")  # buffers, and what was never noted


def models_of(pipeline: Any, phase: str) -> list[nn.Module]:
    return [attrgetter(name)(pipeline) for name in MODELS[phase]]


def move(model: nn.Module, device: str) -> None:
    """Move all that is not there yet: memory may have run out halfway the last time."""
    if any(tensor.device.type != device for tensor in tensors_of(model)):
        model.to(device, non_blocking=True)


def size_of(model: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in tensors_of(model))


def tensors_of(model: nn.Module) -> Iterator[torch.Tensor]:
    return chain(model.parameters(), model.buffers())
