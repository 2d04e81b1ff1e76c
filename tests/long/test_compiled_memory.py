"""That clips which run compiled need what worker/svd/memory.py says: by the programs that torch.compile writes at full
size for a GPU that is not there."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("triton")

from bench.compiled import CASE, counted
from tests.worker.test_memory import native
from worker.svd.memory import Compiled, settle, work_of

KEPT_FEATURE = 2 * 320
"""Bytes for each pixel of the latents, of each frame and sample: what one step keeps for the next, whoever looks."""


@pytest.mark.parametrize(("samples", "guidance"), [(2, 3.0), (1, 1.0)])
def test_the_compiled_unet_needs_what_its_plan_says(samples: int, guidance: float) -> None:
    clip = settle(native(max_guidance_scale=guidance), "24 GB")
    kept = samples * CASE.num_frames * CASE.width * CASE.height // 64 * KEPT_FEATURE
    found = counted("unet", samples)["peak_bytes"] + kept
    assert found <= work_of(clip, Compiled(clip))["denoise"] <= 1.05 * found


@pytest.mark.parametrize(("plan", "frames"), [("24 GB", 13), ("16 GB", 7)])
def test_the_compiled_decoder_needs_what_its_plan_says(plan: str, frames: int) -> None:
    clip = settle(native(), plan)
    assert clip.decode_chunk_size == frames
    found = counted("decoder", frames)
    before = 3 * frames * CASE.width * CASE.height  # the chunk before, as bytes, still on its way
    assert (
        found["peak_bytes"] + before <= work_of(clip, Compiled(clip))["decode"] <= 1.05 * (found["peak_bytes"] + before)
    )
    assert found["wasteful_kernels"] == 0
