"""From a picture to a clip's frames, phase by phase."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from core.engines import Approximation
from core.spec import Clip
from worker.attempt import Attempt
from worker.media.fit import fit_picture
from worker.svd.conditioning import read_conditions
from worker.svd.decoding import decode
from worker.svd.denoising import denoise
from worker.svd.pace import wait_for


def make_frames(
    pipeline: Any, picture: Image.Image, clip: Clip, attempt: Attempt, approximation: Approximation | None = None
) -> NDArray[np.uint8]:
    """`pipeline` is diffusers' StableVideoDiffusionPipeline. Returns (num_frames, height, width, 3)."""
    device = pipeline.unet.device
    with torch.no_grad():
        with attempt.phase("encode_image"):
            fitted = fit_picture(picture, clip.width, clip.height, clip.fit)
            conditions = read_conditions(pipeline, fitted, clip)
            wait_for(device)
        with attempt.phase("denoise"):
            latents = denoise(pipeline, conditions, clip, attempt, approximation)
            wait_for(device)
        with attempt.phase("decode"):
            return decode(pipeline, latents, clip, attempt)
