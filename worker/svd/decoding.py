"""From latents to frames in memory: decoded in chunks, rounded on the device, copied while the next chunk decodes."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from core.errors import EngineFailed
from core.spec import Clip
from worker.attempt import Attempt
from worker.svd.pace import Pace, wait_for


def decode(pipeline: Any, latents: torch.Tensor, clip: Clip, attempt: Attempt) -> NDArray[np.uint8]:
    """Frames (num_frames, height, width, 3). Raises Stopped; EngineFailed where the model gave no numbers.

    The decoder sees the frames of one chunk at a time, so where chunks begin changes the picture a little.
    """
    vae, on_gpu = pipeline.vae, latents.device.type == "cuda"
    chunks = (1 / vae.config.scaling_factor * latents[0]).split(clip.decode_chunk_size or clip.num_frames)
    pace = Pace(attempt, len(chunks), latents.device)
    aside = torch.cuda.Stream(latents.device) if on_gpu else None
    frames = torch.empty((clip.num_frames, clip.height, clip.width, 3), dtype=torch.uint8, pin_memory=on_gpu)
    sound, done = [], 0
    for chunk in chunks:
        video = vae.decode(chunk, num_frames=len(chunk)).sample
        sound.append(video.isfinite().all())
        copy(to_bytes(video), frames[done : done + len(chunk)], aside)
        done += len(chunk)
        pace.queued()
    wait_for(latents.device)
    if not all(sound):
        raise EngineFailed("the model gave pixels that are not numbers: its weights are damaged")
    return frames.numpy()


def to_bytes(video: torch.Tensor) -> torch.Tensor:
    """(n, 3, height, width), from -1 to 1 and a little beyond, as uint8 (n, height, width, 3)."""
    scaled = (video.float() * 0.5 + 0.5).clamp(0, 1) * 255
    return scaled.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def copy(pixels: torch.Tensor, frames: torch.Tensor, aside: torch.cuda.Stream | None) -> None:
    """On a GPU beside whatever is queued next."""
    if aside is None:
        frames.copy_(pixels)
        return
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        frames.copy_(pixels, non_blocking=True)
    pixels.record_stream(aside)
