"""By which plan a clip is made, so that it fits the GPU's memory.

The figures are those of SVD-XT in float16, counted by `scripts/bench svd --memory` as what lives at one moment of each
phase: eager ones by running the models, those of compiled programs by running the code that inductor writes for them.
tests/worker/test_memory.py and tests/long/test_compiled_memory.py hold them to the models. docs/performance.md has what
each plan needs.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil

import torch

from core.errors import OutOfMemory
from core.requests.clip import ClipSettings
from worker.engines.svd.conditioning import is_guided

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


# By the smallest card on which the native clip is made so, if nothing is compiled. A clip takes the first that it fits.
PLANS = {
    "24 GB": Plan(13),
    "16 GB": Plan(7),
    "12 GB": Plan(5, in_parts=True),
    "8 GB": Plan(5, in_parts=True, apart=True, offloads=True),
}
ON_CPU = "16 GB"
"""For a machine of which nobody knows how much memory there is."""

# Bytes for each pixel of the clip's frames.
ENCODER = 2600
"""Of the picture, in float32."""
DECODER = 2060
"""Of each frame in a chunk."""
COMPILED_DECODER = 1320
UNET = {(False, 1): 272, (False, 2): 572, (True, 1): 162, (True, 2): 346}
"""Of each frame; by whether it works in parts, and how many samples it sees at once."""
COMPILED_UNET = {1: 212, 2: 424}
"""Of each frame, by how many samples it sees at once."""
KEPT = 10
"""Of each frame: the features of the sample whose turn it is not."""

UNSEEN = 1.1
"""Times what is counted beside the weights: the workspaces of libraries, and the holes between what lives, of which
expandable segments have next to none: tests/long/test_memory_holes.py."""


@dataclass(frozen=True)
class Compiled:
    """For which clips there are compiled programs: `clip`, and those that look alike to the UNet or to the decoder."""

    clip: ClipSettings
    """Settled."""

    def has_unet(self, clip: ClipSettings) -> bool:
        mine = self.clip
        same = (clip.width, clip.height, clip.num_frames) == (mine.width, mine.height, mine.num_frames)
        return same and is_guided(clip) == is_guided(mine) and plan_of(clip).is_whole

    def has_decoder(self, clip: ClipSettings) -> bool:
        mine = self.clip
        return (clip.width, clip.height) == (mine.width, mine.height) and chunks(clip) <= chunks(mine)


def fitting(
    clip: ClipSettings,
    budget: int,
    weights: Mapping[str, int],
    compiled: Compiled | None = None,
    ran_out: Mapping[str, int] | None = None,
) -> ClipSettings:
    """Return `clip` settled by the first plan that it fits.

    `budget` is the GPU's bytes without any weights, `weights` the bytes of those of each phase, `ran_out` those that
    were too many for a phase before, all as counted. Raises OutOfMemory with what would fit.
    """
    for settled in ways(clip):
        if fits(settled, budget, weights, compiled, ran_out):
            return settled
    raise OutOfMemory(what_fits(clip, budget, weights, ran_out))


def fitting_compiled(
    clip: ClipSettings, budget: int, weights: Mapping[str, int], ran_out: Mapping[str, int] | None = None
) -> ClipSettings | None:
    """Return `clip` settled by the first whole plan that it fits once it is compiled; None if it fits none."""
    for settled in ways(clip):
        if plan_of(settled).is_whole and fits(settled, budget, weights, Compiled(settled), ran_out):
            return settled
    return None


def ways(clip: ClipSettings) -> Iterator[ClipSettings]:
    return (with_memory_plan(clip, name) for name in PLANS)


def fits(
    clip: ClipSettings,
    budget: int,
    weights: Mapping[str, int],
    compiled: Compiled | None = None,
    ran_out: Mapping[str, int] | None = None,
) -> bool:
    phases = needed_by_phase(clip, weights, compiled)
    return all(bytes_ <= budget and bytes_ < (ran_out or {}).get(phase, bytes_ + 1) for phase, bytes_ in phases.items())


def with_memory_plan(clip: ClipSettings, name: str) -> ClipSettings:
    chunk = clip.decode_chunk_size or decoded_at_once(PLANS[name], clip)
    return clip.model_copy(update={"memory_plan": name, "decode_chunk_size": chunk})


def decoded_at_once(plan: Plan, clip: ClipSettings) -> int:
    """Chunks as even as can be: the decoder looks from frame to frame, and sees none beyond its chunk."""
    of_this_size = plan.decode_chunk_size * NATIVE_PIXELS // (clip.width * clip.height)
    most = max(1, min(plan.decode_chunk_size, of_this_size))
    return ceil(clip.num_frames / ceil(clip.num_frames / most))


def at_once(clip: ClipSettings) -> int:
    """Return how many frames of `clip`, settled, are decoded at once."""
    return min(clip.num_frames, clip.decode_chunk_size or clip.num_frames)


def chunks(clip: ClipSettings) -> set[int]:
    """Return the sizes of the chunks in which the frames of `clip`, settled, are decoded."""
    return {at_once(clip), clip.num_frames % at_once(clip) or at_once(clip)}


def needed(clip: ClipSettings, weights: Mapping[str, int], compiled: Compiled | None = None) -> int:
    """Return the bytes of the GPU's memory that `clip`, settled, needs in all."""
    return max(needed_by_phase(clip, weights, compiled).values())


def needed_by_phase(clip: ClipSettings, weights: Mapping[str, int], compiled: Compiled | None = None) -> dict[str, int]:
    offloads = plan_of(clip).offloads
    return {
        phase: round((weights[phase] if offloads else sum(weights.values())) + UNSEEN * worked_on)
        for phase, worked_on in work_of(clip, compiled).items()
    }


def work_of(clip: ClipSettings, compiled: Compiled | None = None) -> dict[str, int]:
    """Return the bytes at the peak of each phase, without weights, as counted."""
    plan, pixels, guided = plan_of(clip), clip.width * clip.height, is_guided(clip)
    samples = 2 if guided and not plan.apart else 1
    unet = UNET[plan.in_parts, samples] + KEPT * (guided and plan.apart)
    if compiled and compiled.has_unet(clip):
        unet = COMPILED_UNET[samples]
    decoder = COMPILED_DECODER if compiled and compiled.has_decoder(clip) else DECODER
    return {
        "encode_image": pixels * ENCODER,
        "denoise": pixels * clip.num_frames * unet,
        "decode": pixels * max(chunks(clip)) * decoder,
    }


def plan_of(clip: ClipSettings) -> Plan:
    """Return the plan of `clip`, settled."""
    return PLANS[clip.memory_plan or ON_CPU]


def what_fits(
    clip: ClipSettings, budget: int, weights: Mapping[str, int], ran_out: Mapping[str, int] | None = None
) -> str:
    """Say what to ask for in place of `clip`, which does not fit."""
    least = min(needed(settled, weights) for settled in ways(clip))
    chunk = f", {clip.decode_chunk_size} decoded at once," if clip.decode_chunk_size else ""
    free = "which ran out before" if least <= budget else f"and {10 * budget // GB / 10} are free for it"
    return (
        f"{clip.num_frames} frames of {clip.width}×{clip.height}{chunk} need {ceil(10 * least / GB) / 10} GB of the "
        f"GPU's memory, {free}; {less(clip, budget, weights, ran_out)}"
    )


def less(clip: ClipSettings, budget: int, weights: Mapping[str, int], ran_out: Mapping[str, int] | None = None) -> str:
    fewer = {"decode_chunk_size": range((clip.decode_chunk_size or 1) - 1, 0, -1)}
    fewer |= {"num_frames": range(clip.num_frames - 1, 1, -1)}
    for name, values in fewer.items():
        for value in values:
            smaller = clip.model_copy(update={name: value})
            if any(fits(settled, budget, weights, None, ran_out) for settled in ways(smaller)):
                return f"{name} {value} would fit"
    return "a smaller size would need less"


def total_bytes() -> int:
    """Return how much of the GPU's memory torch may hold in this process: what is free, and what it holds already."""
    free, total = torch.cuda.mem_get_info()
    allowed = round(total * torch.cuda.get_per_process_memory_fraction())
    return min(free + torch.cuda.memory_reserved(), allowed)
