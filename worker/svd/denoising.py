"""The loop from noise to a clip's latents."""

from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import Any

import torch

from core.spec import Clip
from worker.attempt import Attempt
from worker.svd.conditioning import Conditions
from worker.svd.cross_attention import fold_in
from worker.svd.latents import show_emerging
from worker.svd.pace import Pace


def denoise(pipeline: Any, conditions: Conditions, clip: Clip, attempt: Attempt) -> torch.Tensor:
    """The clip's latents, (1, num_frames, 4, height / 8, width / 8). Raises Stopped.

    Nothing in the loop makes Python wait for the device but Pace: the scheduler keeps its numbers on the CPU, and what
    is guided is known before.
    """
    unet, scheduler, known = pipeline.unet, pipeline.scheduler, conditions
    scheduler.set_timesteps(clip.num_inference_steps, device="cpu")
    pace, take_step = Pace(attempt, len(scheduler.timesteps), unet.device), seeded(scheduler.step, known.seed)
    fold_in(unet, known.embedding)
    latents: torch.Tensor = known.noise * scheduler.init_noise_sigma
    on_device = [timestep.clone() for timestep in scheduler.timesteps.to(unet.device)]
    for step, timestep in enumerate(scheduler.timesteps):
        scaled = scheduler.scale_model_input(latents, timestep)
        both = torch.cat([scaled.expand_as(known.image_latents), known.image_latents], dim=2)
        predicted = unet(both, on_device[step], known.embedding, known.time_ids).sample
        guided = guide(predicted, known.guidance_scale)
        stepped = take_step(guided, timestep, latents)
        latents = stepped.prev_sample
        pace.queued()
        show_emerging(stepped, pace.last, attempt, clip.fps)
    return latents


def seeded(step: Callable[..., Any], seed: torch.Generator) -> Callable[..., Any]:
    """A scheduler's step, with the seed where it draws noise."""
    return partial(step, generator=seed) if "generator" in signature(step).parameters else step


def guide(predicted: torch.Tensor, guidance_scale: torch.Tensor | None) -> torch.Tensor:
    """What was predicted with the picture, and for each frame that much further away from what was without it."""
    if guidance_scale is None:
        return predicted
    without, with_picture = predicted.chunk(2)
    return without + guidance_scale * (with_picture - without)
