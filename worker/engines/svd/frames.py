"""From a picture to a clip's frames, phase by phase."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from core.engines.base import Approximation
from core.requests.clip import ClipSettings
from worker.attempt import Attempt
from worker.engines.svd.conditioning import read_conditions
from worker.engines.svd.decoding import decode
from worker.engines.svd.denoising import denoise
from worker.engines.svd.device_progress import wait_for
from worker.engines.svd.feed_forward import work_in_parts
from worker.engines.svd.memory import plan_of
from worker.engines.svd.placing import place
from worker.media.fit import fit_picture


def make_frames(
    pipeline: Any,
    picture: Image.Image,
    clip: ClipSettings,
    attempt: Attempt,
    approximation: Approximation | None = None,
    device: str = "cpu",
) -> NDArray[np.uint8]:
    """`pipeline` is diffusers' StableVideoDiffusionPipeline, of which `device` gets what the clip's plan wants there.
    Returns (num_frames, height, width, 3)."""
    plan = plan_of(clip)
    work_in_parts(pipeline.unet, plan.in_parts)
    with torch.no_grad():
        with attempt.phase("encode_image"):
            place(pipeline, "encode_image", device, plan.offloads)
            fitted = fit_picture(picture, clip.width, clip.height, clip.fit)
            conditions = read_conditions(pipeline, fitted, clip)
            wait_for(conditions.noise.device)
        with attempt.phase("denoise"):
            place(pipeline, "denoise", device, plan.offloads)
            latents = denoise(pipeline, conditions, clip, attempt, approximation, plan.apart)
            wait_for(latents.device)
        with attempt.phase("decode"):
            place(pipeline, "decode", device, plan.offloads)
            return decode(pipeline, latents, clip, attempt)
