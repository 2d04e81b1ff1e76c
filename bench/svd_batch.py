"""Whether clips that share a pass through the UNet are more of them an hour: `scripts/bench svd --batch`."""

from statistics import median
from typing import Any

import torch

from bench.svd_ways import now
from harness.random_svd import Case
from worker.engines.svd.cross_attention import fold_in
from worker.engines.svd.speedups import worth_it

CLIPS = (1, 2)
"""Four would be 73,728 sequences of frames at full size, and cuDNN's and flash's attention take 65,535 at most
(pytorch#146704, #180718)."""


def measure(pipeline: Any, case: Case, runs: int) -> list[dict[str, float]]:
    """A row for each number of clips in one guided step: its seconds, and clips an hour against one at a time. All take
    turns; medians of `runs`. Decoding is not shared, since its chunks fill a GPU already."""
    for change in worth_it(pipeline.device.type):
        change(pipeline)
    seconds: dict[int, list[float]] = {clips: [] for clips in CLIPS}
    for _ in range(runs + 1):
        for clips in CLIPS:
            seconds[clips].append(step(pipeline.unet, case, clips))
    found = {clips: median(each[1:]) for clips, each in seconds.items()}  # the first one warms up
    return [
        {"clips": clips, "seconds": found[clips], "× clips an hour": clips * found[1] / found[clips]} for clips in CLIPS
    ]


def step(unet: Any, case: Case, clips: int) -> float:
    """Seconds of one guided step of so many clips at once."""
    kind = {"device": unet.device, "dtype": unet.dtype}
    samples = 2 * clips
    latents = torch.randn(samples, case.num_frames, unet.config.in_channels, case.height // 8, case.width // 8, **kind)
    embedding = torch.randn(samples, 1, unet.config.cross_attention_dim, **kind)
    time_ids = torch.tensor([[6, 127, 0.02]] * samples, **kind)
    with torch.no_grad():
        fold_in(unet, embedding)
        begun = now()
        unet(latents, torch.tensor(1.0, device=unet.device), embedding, time_ids)
        return now() - begun
