"""What the UNet predicts in a step, guided: exactly, or with less work."""

from dataclasses import replace
from typing import Any

import torch

from core.engines import Approximation
from worker.svd.conditioning import Conditions
from worker.svd.cross_attention import fold_in
from worker.svd.deep_cache import set_shallow


class Exact:
    """As diffusers' pipeline works it out, both samples in one pass."""

    def __init__(self, unet: Any, known: Conditions) -> None:
        self.unet, self.known = unet, known
        fold_in(unet, known.embedding)

    def __call__(self, scaled: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """`scaled` latents, (1, num_frames, 4, height / 8, width / 8)."""
        predicted = ask(self.unet, scaled, timestep, self.known)
        if self.known.guidance_scale is None:
            return predicted
        without, with_picture = predicted.chunk(2)
        return without + self.known.guidance_scale * (with_picture - without)


class Fast:
    """Full and guided steps first and now and then; what they found is used again in the steps between and after."""

    def __init__(self, unet: Any, known: Conditions, steps: int, approximation: Approximation) -> None:
        self.unet, self.known, self.approximation = unet, known, approximation
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
        predicted = ask(self.unet, scaled, timestep, self.known)
        self.step += 1
        if self.known.guidance_scale is not None:
            without, predicted = predicted.chunk(2)
            self.difference = (self.known.guidance_scale - 1) * (predicted - without)
        return predicted if self.difference is None else predicted + self.difference


def ask(unet: Any, scaled: torch.Tensor, timestep: torch.Tensor, known: Conditions) -> torch.Tensor:
    both = torch.cat([scaled.expand_as(known.image_latents), known.image_latents], dim=2)
    predicted: torch.Tensor = unet(both, timestep, known.embedding, known.time_ids).sample
    return predicted


def unguided(known: Conditions) -> Conditions:
    """Only the sample that knows the picture."""
    last = {name: getattr(known, name)[-1:] for name in ("embedding", "image_latents", "time_ids")}
    return replace(known, guidance_scale=None, **last)
