"""That clips which run compiled need what worker/engines/svd/memory.py says: by the programs that torch.compile writes
at full size for a GPU that is not there."""

from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("triton")

from bench.allocator import Event, Expandable, RanOut
from bench.compiled import CASE, counted
from bench.peak import build
from core.requests.clip import Clip
from tests.long.test_memory_holes import SIZES, Phases, eager, play
from tests.worker.test_memory import native
from worker.engines.svd.memory import Compiled, fitting, needed, with_memory_plan, work_of
from worker.engines.svd.placing import weights_of

# diffusers' Euler scheduler gives a tensor to np.array, and torch 2.13's __array__ has no `copy` yet.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

KEPT_FEATURE = 2 * 320
"""Bytes for each pixel of the latents, of each frame and sample: what one step keeps for the next, whoever looks."""


@pytest.mark.parametrize(("samples", "guidance"), [(2, 3.0), (1, 1.0)])
def test_the_compiled_unet_needs_what_its_plan_says(samples: int, guidance: float) -> None:
    clip = with_memory_plan(native(max_guidance_scale=guidance), "24 GB")
    kept = samples * CASE.num_frames * CASE.width * CASE.height // 64 * KEPT_FEATURE
    program = counted("unet", samples)
    found = program["peak_bytes"] + kept
    assert found <= work_of(clip, Compiled(clip))["denoise"] <= 1.05 * found
    assert program["wasteful_kernels"] == 0


@pytest.mark.parametrize(("plan", "frames"), [("24 GB", 13), ("16 GB", 7)])
def test_the_compiled_decoder_needs_what_its_plan_says(plan: str, frames: int) -> None:
    clip = with_memory_plan(native(), plan)
    assert clip.decode_chunk_size == frames
    found = counted("decoder", frames)
    before = 3 * frames * CASE.width * CASE.height  # the chunk before, as bytes, still on its way
    assert (
        found["peak_bytes"] + before <= work_of(clip, Compiled(clip))["decode"] <= 1.05 * (found["peak_bytes"] + before)
    )
    assert found["wasteful_kernels"] == 0


@pytest.mark.parametrize("plan", ["24 GB", "16 GB"])
def test_compiled_clips_fit_what_their_plan_says_between_clips_of_other_sizes(plan: str) -> None:
    """As tests/long/test_memory_holes.py has it for eager ones: the native clip runs compiled, the others do not."""
    native_clip = with_memory_plan(native(), plan)
    compiled = Compiled(native_clip)
    frames = native_clip.decode_chunk_size
    assert frames
    step, chunk = (as_events(counted(*which)["events"]) for which in (("unet", 2), ("decoder", frames)))
    kept = 2 * CASE.num_frames * CASE.width * CASE.height // 64 * KEPT_FEATURE
    pixels = 3 * frames * CASE.width * CASE.height

    def phases(pipeline: Any, clip: Clip) -> Phases:
        found = eager(pipeline, clip)
        if clip == native_clip:
            # What the first call leaves is there while the second one runs.
            found["denoise"] = [(-1, kept), *step, *again(step), (-1, -1)]
            found["decode"] = [*chunk, (-1, pixels), *again(chunk), (-1, -1)]
        return found

    pipeline = build()
    weights = weights_of(pipeline)
    limit = needed(native_clip, weights, compiled)
    clips = [fitting(native(**size), limit, weights, compiled) for size in SIZES]
    assert clips[0] == clips[-1] == native_clip
    play(pipeline, clips, Expandable(limit), phases)
    with pytest.raises(RanOut):
        play(pipeline, clips, Expandable(round(limit / 1.15)), phases)


def as_events(found: list[list[int]]) -> list[Event]:
    return [(key, size) for key, size in found]


def again(events: list[Event]) -> list[Event]:
    """Return `events` of another call, whose tensors are others."""
    return [(key + 10**6, size) for key, size in events]
