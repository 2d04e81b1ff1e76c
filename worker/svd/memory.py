"""By which plan a clip is made, so that it fits the GPU's memory.

The figures are those of SVD-XT in float16, counted by `scripts/bench svd --memory` as what lives at one moment of each
phase; tests/worker/test_memory.py holds them to the models. docs/performance.md has what each plan needs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

import torch

from core.errors import OutOfMemory
from core.spec import Clip
from worker.svd.conditioning import is_guided

GB = 2**30
"""As graphics cards are sold."""

NATIVE_PIXELS = 1024 * 576


@dataclass(frozen=True)
class Plan:
    """Ways to need less memory. None changes the clip beyond rounding, but that frames are decoded in chunks."""

    decode_chunk_size: int
    """At most, at the native size; fewer of larger frames."""
    in_parts: bool = False
    """The UNet's feed-forwards are worked out part by part."""
    apart: bool = False
    """The two samples of a guided clip go through the UNet one after the other."""
    offloads: bool = False
    """Only the models of the phase that runs are on the GPU."""

    @property
    def is_whole(self) -> bool:
        """The UNet sees all at once, and stays where it is."""
        return not (self.in_parts or self.apart or self.offloads)


# By the smallest card on which the native clip is made so. The first that a clip fits is taken for it.
PLANS = {
    "24 GB": Plan(13),
    "16 GB": Plan(7),
    "12 GB": Plan(5, in_parts=True),
    "8 GB": Plan(5, in_parts=True, apart=True, offloads=True),
}
ON_CPU = "16 GB"
"""Where nobody knows how much there is."""

# Bytes for each pixel of the clip's frames.
ENCODER = 2600
"""Of the picture, in float32."""
DECODER = 2060
"""Of each frame in a chunk."""
UNET = {(False, 1): 272, (False, 2): 572, (True, 1): 162, (True, 2): 346}
"""Of each frame; by whether it works in parts, and how many samples it sees at once."""
KEPT = 10
"""Of each frame: the features of the sample whose turn it is not."""

UNSEEN = 1.1
"""Times what is counted: the workspaces of libraries, and the holes between what lives."""


def fitting(clip: Clip, budget: int, weights: Mapping[str, int]) -> Clip:
    """`clip` settled by the first plan that it fits. `budget` is the GPU's bytes without any weights, `weights` the
    bytes of those of each phase. Raises OutOfMemory with what would fit."""
    for name in PLANS:
        settled = settle(clip, name)
        if needed(settled, weights) <= budget:
            return settled
    raise OutOfMemory(what_fits(clip, budget, weights))


def settle(clip: Clip, name: str) -> Clip:
    chunk = clip.decode_chunk_size or decoded_at_once(PLANS[name], clip)
    return clip.model_copy(update={"memory_plan": name, "decode_chunk_size": chunk})


def decoded_at_once(plan: Plan, clip: Clip) -> int:
    """Chunks as even as can be: the decoder looks from frame to frame, and sees none beyond its chunk."""
    of_this_size = plan.decode_chunk_size * NATIVE_PIXELS // (clip.width * clip.height)
    most = max(1, min(plan.decode_chunk_size, of_this_size))
    return ceil(clip.num_frames / ceil(clip.num_frames / most))


def needed(clip: Clip, weights: Mapping[str, int]) -> int:
    """Bytes of the GPU's memory that `clip`, settled, needs in all."""
    offloads = plan_of(clip).offloads
    most = max(
        (weights[phase] if offloads else sum(weights.values())) + worked_on
        for phase, worked_on in work_of(clip).items()
    )
    return round(UNSEEN * most)


def work_of(clip: Clip) -> dict[str, int]:
    """Bytes at the peak of each phase, without weights, as counted."""
    plan, pixels, guided = plan_of(clip), clip.width * clip.height, is_guided(clip)
    unet = UNET[plan.in_parts, 2 if guided and not plan.apart else 1] + KEPT * (guided and plan.apart)
    return {
        "encode_image": pixels * ENCODER,
        "denoise": pixels * clip.num_frames * unet,
        "decode": pixels * min(clip.num_frames, clip.decode_chunk_size or clip.num_frames) * DECODER,
    }


def plan_of(clip: Clip) -> Plan:
    """Of one that is settled."""
    return PLANS[clip.memory_plan or ON_CPU]


def what_fits(clip: Clip, budget: int, weights: Mapping[str, int]) -> str:
    """In place of `clip`, which does not."""
    least = min(needed(settle(clip, name), weights) for name in PLANS)
    chunk = f", {clip.decode_chunk_size} decoded at once," if clip.decode_chunk_size else ""
    return (
        f"{clip.num_frames} frames of {clip.width}×{clip.height}{chunk} need {ceil(10 * least / GB) / 10} GB of the "
        f"GPU's memory, and {10 * budget // GB / 10} are free for it; {less(clip, budget, weights)}"
    )


def less(clip: Clip, budget: int, weights: Mapping[str, int]) -> str:
    fewer = {"decode_chunk_size": range((clip.decode_chunk_size or 1) - 1, 0, -1)}
    fewer |= {"num_frames": range(clip.num_frames - 1, 1, -1)}
    for name, values in fewer.items():
        for value in values:
            smaller = clip.model_copy(update={name: value})
            if any(needed(settle(smaller, plan), weights) <= budget for plan in PLANS):
                return f"{name} {value} would fit"
    return "a smaller size would need less"


def free_bytes() -> int:
    """Of the GPU's memory, for this process and all that it may yet take, beside what torch has given out already."""
    free, total = torch.cuda.mem_get_info()
    allowed = round(total * torch.cuda.get_per_process_memory_fraction())
    return min(free + torch.cuda.memory_reserved(), allowed) - torch.cuda.memory_allocated()
