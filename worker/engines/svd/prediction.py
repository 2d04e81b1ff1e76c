"""What the UNet predicts in a step, guided: exactly, or with less work."""

from dataclasses import replace
from typing import Any

import torch

from core.engines.base import Approximation
from worker.engines.svd.conditioning import Conditions
from worker.engines.svd.cross_attention import fold_in
from worker.engines.svd.deep_cache import exchange_features, set_shallow


class Exact:
    """As diffusers' pipeline works it out, both samples in one pass or `apart`."""

    def __init__(self, unet: Any, known: Conditions, apart: bool) -> None:
        self.unet, self.known, self.apart = unet, known, apart
        fold_in(unet, known.embedding)

    def __call__(self, scaled: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """`scaled` latents, (1, num_frames, 4, height / 8, width / 8)."""
        predicted = ask(self.unet, scaled, timestep, self.known, self.apart)
        if self.known.guidance_scale is None:
            return predicted
        without, with_picture = predicted.chunk(2)
        return without + self.known.guidance_scale * (with_picture - without)


class Fast:
    """Full and guided steps first and now and then; what they found is used again in the steps between and after."""

    def __init__(self, unet: Any, known: Conditions, steps: int, approximation: Approximation, apart: bool) -> None:
        self.unet, self.known, self.approximation, self.apart = unet, known, approximation, apart
        self.guided_steps = round(approximation.guided_part * steps) if known.guidance_scale is not None else 0
        self.step = 0
        self.difference: torch.Tensor | None = None
        """What the picture made of the prediction, in the last guided step, times what the guidance adds of it."""

    def __call__(self, scaled: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        if self.step in (0, self.guided_steps):
            self.known = self.known if self.step < self.guided_steps else unguided(self.known)
            fold_in(self.unet, self.known.embedding)
            full = True
        else:
            full = self.step % self.approximation.full_every == 0
        set_shallow(self.unet, not full)
        predicted = ask(self.unet, scaled, timestep, self.known, self.apart)
        self.step += 1
        if self.known.guidance_scale is not None:
            without, predicted = predicted.chunk(2)
            self.difference = (self.known.guidance_scale - 1) * (predicted - without)
        return predicted if self.difference is None else predicted + self.difference


def ask(unet: Any, scaled: torch.Tensor, timestep: torch.Tensor, known: Conditions, apart: bool) -> torch.Tensor:
    if apart and known.guidance_scale is not None:
        return ask_each(unet, scaled, timestep, known)
    both = torch.cat([scaled.expand_as(known.image_latents), known.image_latents], dim=2)
    predicted: torch.Tensor = unet(both, timestep, known.embedding, known.time_ids).sample
    return predicted


def ask_each(unet: Any, scaled: torch.Tensor, timestep: torch.Tensor, known: Conditions) -> torch.Tensor:
    """The same, with a pass for either sample: half of the memory, and what the UNet knows of a sample goes with it."""
    predicted = []
    for sample in (0, 1):
        alone = unguided(known, sample)
        fold_in(unet, alone.embedding)
        predicted.append(ask(unet, scaled, timestep, alone, True))
        exchange_features(unet)
    return torch.cat(predicted)


def unguided(known: Conditions, sample: int = -1) -> Conditions:
    """Only one sample: the last knows the picture."""
    alone = {name: getattr(known, name).narrow(0, sample, 1) for name in ("embedding", "image_latents", "time_ids")}
    return replace(known, guidance_scale=None, **alone)
