"""From latents to frames in memory: decoded in chunks, rounded on the device, copied while the next chunk decodes."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from core.errors import EngineFailed
from core.requests.clip import ClipSettings
from worker.attempt import Attempt
from worker.engines.svd.device_progress import DeviceProgress, wait_for


def decode(pipeline: Any, latents: torch.Tensor, clip: ClipSettings, attempt: Attempt) -> NDArray[np.uint8]:
    """Frames (num_frames, height, width, 3). Raises Stopped; EngineFailed if a model gave no numbers.

    The decoder sees the frames of one chunk at a time, so where chunks begin changes the picture a little.
    """
    if not latents.isfinite().all():
        raise EngineFailed(f"the UNet gave latents that are no numbers: {too_narrow(pipeline.unet)}")
    decoder, chunk = pipeline.vae.decoder, clip.decode_chunk_size or clip.num_frames
    frames, sound = decode_all(pipeline, latents, clip, chunk, attempt)
    if not sound and decoder.conv_in.weight.dtype == torch.float16:
        attempt.warnings.append("the decoder gave no numbers in float16; this was made in float32, in smaller chunks")
        try:
            decoder.float()
            # Numbers of twice the size, and no compiled program: a quarter of the frames needs no more memory.
            frames, sound = decode_all(pipeline, latents.float(), clip, max(1, chunk // 4), attempt)
        finally:
            decoder.half()
    if not sound:
        raise EngineFailed("the decoder gave pixels that are no numbers: its weights are damaged")
    return frames


def too_narrow(model: Any) -> str:
    """Why `model` may give no numbers."""
    damaged = "its weights are damaged"
    return damaged if model.dtype == torch.float32 else f"{damaged}, or float16 is too narrow for this clip"


def decode_all(
    pipeline: Any, latents: torch.Tensor, clip: ClipSettings, chunk_size: int, attempt: Attempt
) -> tuple[NDArray[np.uint8], bool]:
    """The frames, and whether all of them are numbers."""
    vae, on_gpu = pipeline.vae, latents.device.type == "cuda"
    chunks = (1 / vae.config.scaling_factor * latents[0]).split(chunk_size)
    progress = DeviceProgress(attempt, len(chunks), latents.device)
    aside = torch.cuda.Stream(latents.device) if on_gpu else None
    frames = torch.empty((clip.num_frames, clip.height, clip.width, 3), dtype=torch.uint8, pin_memory=on_gpu)
    sound, done = [], 0
    for chunk in chunks:
        video = vae.decode(chunk, num_frames=len(chunk)).sample
        sound.append(video.isfinite().all())
        copy(to_bytes(video), frames[done : done + len(chunk)], aside)
        done += len(chunk)
        progress.queued()
    wait_for(latents.device)
    return frames.numpy(), all(sound)


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
