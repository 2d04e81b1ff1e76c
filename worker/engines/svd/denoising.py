"""The loop from noise to a clip's latents."""

from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import Any

import torch

from core.engines.base import Approximation
from core.requests.clip import ClipSettings
from worker.attempt import Attempt
from worker.engines.svd.conditioning import Conditions
from worker.engines.svd.deep_cache import forget_features
from worker.engines.svd.device_progress import DeviceProgress
from worker.engines.svd.latents import show_emerging
from worker.engines.svd.prediction import Exact, Fast


def denoise(
    pipeline: Any,
    known: Conditions,
    clip: ClipSettings,
    attempt: Attempt,
    approximation: Approximation | None = None,
    apart: bool = False,
) -> torch.Tensor:
    """The clip's latents, (1, num_frames, 4, height / 8, width / 8); its samples `apart`, or at once. Raises Stopped.

    Nothing in the loop makes Python wait for the device but DeviceProgress: the scheduler keeps its numbers on the CPU,
    and what is guided is known before.
    """
    unet, scheduler = pipeline.unet, pipeline.scheduler
    scheduler.set_timesteps(clip.num_inference_steps, device="cpu")
    steps = len(scheduler.timesteps)
    progress, take_step = DeviceProgress(attempt, steps, unet.device), seeded(scheduler.step, known.seed)
    predict = Fast(unet, known, steps, approximation, apart) if approximation else Exact(unet, known, apart)
    latents: torch.Tensor = known.noise * scheduler.init_noise_sigma
    on_device = [timestep.clone() for timestep in scheduler.timesteps.to(unet.device)]
    try:
        for step, timestep in enumerate(scheduler.timesteps):
            scaled = scheduler.scale_model_input(latents, timestep)
            stepped = take_step(predict(scaled, on_device[step]), timestep, latents)
            latents = stepped.prev_sample
            progress.queued()
            show_emerging(stepped, progress.last, attempt, clip.fps)
    finally:
        forget_features(unet)
    return latents


def seeded(step: Callable[..., Any], seed: torch.Generator) -> Callable[..., Any]:
    """A scheduler's step, with the seed if it draws noise."""
    return partial(step, generator=seed) if "generator" in signature(step).parameters else step
