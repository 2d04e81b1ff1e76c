"""The loop from noise to a clip's latents."""

from typing import Any

import torch

from core.engines import Approximation
from core.spec import Clip
from worker.attempt import Attempt
from worker.svd.conditioning import Conditions
from worker.svd.deep_cache import forget_features
from worker.svd.latents import Emerging
from worker.svd.pace import Pace
from worker.svd.prediction import Exact, Fast


def denoise(
    pipeline: Any, known: Conditions, clip: Clip, attempt: Attempt, approximation: Approximation | None = None
) -> torch.Tensor:
    """The clip's latents, (1, num_frames, 4, height / 8, width / 8). Raises Stopped.

    Nothing in the loop makes Python wait for the device but Pace: the scheduler keeps its numbers on the CPU, and what
    is guided is known before.
    """
    unet, scheduler = pipeline.unet, pipeline.scheduler
    scheduler.set_timesteps(clip.num_inference_steps, device="cpu")
    pace, emerging = Pace(attempt, len(scheduler.timesteps), unet.device), Emerging(attempt, clip.fps)
    predict = Fast(unet, known, len(scheduler.timesteps), approximation) if approximation else Exact(unet, known)
    latents: torch.Tensor = known.noise * scheduler.init_noise_sigma
    on_device = [timestep.clone() for timestep in scheduler.timesteps.to(unet.device)]
    try:
        for step, timestep in enumerate(scheduler.timesteps):
            scaled = scheduler.scale_model_input(latents, timestep)
            latents = scheduler.step(predict(scaled, on_device[step]), timestep, latents).prev_sample
            pace.queued()
            emerging.step_queued(scheduler, step, latents, pace.last)
    finally:
        forget_features(unet)
    return latents
