"""The parts of `scripts/bench gpu`, in the order of what matters most, each with the most seconds that it may take:

    python -m bench.gpu_parts          # lists them
    python -m bench.gpu_parts NAME     # measures one; each row is a line of JSON

Each is asked: does it run at all, and which way is faster.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any
from unittest.mock import patch

from worker.engines.torch_environment import set_torch_environment

set_torch_environment()

import numpy as np
import structlog
import torch
from PIL import Image

from bench.gpu import TO_FRAMES
from bench.kernels import time_by_class
from bench.svd_memory import NOT_FOR_TORCH, native_clip, on_card, share_of
from bench.svd_ways import Diffusers, Kinora, Turbo, clip_of
from core.engines.svd import SVD_FAST
from core.errors import KinoraError
from harness.random_svd import FULL_CASE, REDUCED_CASE, Case, build_pipeline
from worker.attempt import Attempt
from worker.engines.causes import first_line
from worker.engines.gpu_faults import fault_of
from worker.engines.svd import frames, group_norm, speedups
from worker.engines.svd.cross_attention import fold_in
from worker.engines.svd.feed_forward import work_in_parts
from worker.engines.svd.memory import GB, PLANS
from worker.engines.svd.probes import RUNS, attending, clock, convolving
from worker.engines.svd.temporal_convolution import TemporalConvolution
from worker.engines.svd.weights import quieten_libraries

ON_GPU = torch.cuda.is_available()
NEEDS_GPU = "it needs a GPU"
COMPILED_HERE = "compiled" if ON_GPU else "not compiled, for which a CPU needs half an hour"
DEVICE, DTYPE = ("cuda", torch.float16) if ON_GPU else ("cpu", torch.float32)


def usual_case() -> Case:
    """The native clip, decoded in the chunks of the first plan whose card is no larger than this GPU."""
    if not ON_GPU:
        return replace(REDUCED_CASE, num_inference_steps=1)
    plan = next((plan for card, plan in PLANS.items() if share_of(card) < 1), PLANS["8 GB"])
    return replace(FULL_CASE, decode_chunk_size=plan.decode_chunk_size)


CASE = usual_case()


def say(what: str, value: float | str | None = None, unit: str | None = None, fails: str | None = None) -> None:
    print(json.dumps({"what": what, "value": value, "unit": unit, "fails": fails}), flush=True)


def say_time(what: str, work: Callable[[], object]) -> None:
    """The least time of a few runs, or why there is none. What loses the GPU ends the part."""
    try:
        work()
        seconds = min(timed(work) for _ in range(RUNS))
    except (KinoraError, RuntimeError) as error:
        say(what, fails=f"{fault_of(error).value}: {first_line(error)}")
    else:
        say(what, round(1e3 * seconds, 3), "ms")


def timed(work: Callable[[], object]) -> float:
    begun = clock()
    work()
    return clock() - begun


def pipeline_of(device: str = DEVICE) -> Any:
    return build_pipeline(device, reduced=not ON_GPU)


def picture_of(case: Case) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (case.height, case.width, 3), np.uint8)
    return Image.fromarray(noise)


def convolutions() -> None:
    """Along frames, as wide as the decoder's last and the UNet's first: by each way."""
    for channels, size in (
        (128, (1, CASE.decode_chunk_size, CASE.height, CASE.width)),
        (320, (2, CASE.num_frames, CASE.height // 8, CASE.width // 8)),
    ):
        layer = TemporalConvolution(torch.nn.Conv3d(channels, channels, (3, 1, 1))).to(DEVICE, DTYPE)
        for name, work in convolving(layer, size, DEVICE).items():
            say_time(f"{size[0]} × {channels} × {size[1]} × {size[2]} × {size[3]} by {name}", work)


def attention() -> None:
    """By each kernel, for the largest pictures and along their frames."""
    tokens = CASE.width * CASE.height // 64
    for level in (0, 1):
        heads, fewer = 5 * 2**level, tokens // 4**level
        for shape in ((2 * CASE.num_frames, heads, fewer, 64), (2 * fewer, heads, CASE.num_frames, 64)):
            for name, work in attending(shape, DTYPE, DEVICE).items():
                if ON_GPU or name == "flash":
                    say_time("{} × {} × {} × {} by {}".format(*shape, name), work)


def clip_uncompiled() -> None:
    """Does a native clip come out at all, by Kinora's loop with every change but the compiler?"""
    way = Kinora(pipeline_of(), CASE, speedups.ON_GPU, SVD_FAST, copies=False)
    say("plan", way.engine.plan)
    say_chosen(way)
    say_clip("exact, uncompiled", way)


def say_chosen(way: Kinora) -> None:
    for what, chosen in way.engine.kernels.items():
        say(f"chosen for {what}", chosen)


def say_clip(what: str, way: Any) -> None:
    figures = way.time(picture_of(CASE), CASE)
    for part in ("encode", "denoise", "decode"):
        say(f"{what}: {part}", round(figures[part], 3), "s")
    say(f"{what}: {TO_FRAMES}", round(figures["whole"] - figures["finalize"], 3), "s")
    last = way.frames[-1]
    say(f"{what}: last frame", "black" if not last.any() else "not black")
    if ON_GPU:
        say(f"{what}: peak allocated", round(torch.cuda.max_memory_allocated() / GB, 2), "GB")
        say(f"{what}: peak reserved", round(torch.cuda.max_memory_reserved() / GB, 2), "GB")


def clip_compiled() -> None:
    """The table's last row: exact and fast, what each class of kernel takes, and how long compiling took."""
    way = Kinora(pipeline_of(), CASE, speedups.ON_GPU + COMPILED, SVD_FAST, copies=False)
    say("getting ready, cold", round(way.hold_seconds, 1), "s")
    say_chosen(way)
    for _ in range(2):
        say_clip(f"exact, {COMPILED_HERE}", way)
    clip = clip_of(way.engine, CASE)
    picture = picture_of(CASE)
    fast = clip.model_copy(update={"profile": "fast"})
    say(f"fast, {COMPILED_HERE}: frames", round(timed(partial(way.engine.render, picture, fast, Attempt())), 3), "s")
    for name, seconds in time_by_class(partial(way.engine.render, picture, clip, Attempt())).items():
        say(f"exact, {COMPILED_HERE}: {name}", round(seconds, 3), "s")


COMPILED = speedups.COMPILED if ON_GPU else ()


def diffusers() -> None:
    """As it comes, the same clip: what Kinora's speed is compared to."""
    way = Diffusers(pipeline_of(), exports=False, copies=False)
    for _ in range(2):
        say_clip("diffusers", way)


def diffusers_compiled() -> None:
    if not ON_GPU:
        say("diffusers, compiled", fails=NEEDS_GPU)
        return
    way = Diffusers(pipeline_of(), compiled=True, exports=False, copies=False)
    for _ in range(2):
        say_clip("diffusers, compiled", way)


def memory() -> None:
    """What an engine takes and needs that is given as much as a card of each size has, over four clips."""
    if not ON_GPU:
        say("cards", fails=NEEDS_GPU)
        return
    pipeline = pipeline_of().to("cpu")
    for card in PLANS:
        if share_of(card) >= 1:
            say(f"card of {card}", fails=f"this GPU has less than {card}, less {NOT_FOR_TORCH} GB")
            continue
        found = on_card(pipeline, native_clip(), card, speedups.ON_GPU)
        for name, value in found.items():
            say(f"card of {card}: {name}", round(value, 2) if isinstance(value, float) else value)


def running_out() -> None:
    """Memory that really runs out in each phase: is it known as such, and is the next clip right?"""
    way = Kinora(pipeline_of(), CASE, speedups.ON_GPU, copies=False)
    clip = clip_of(way.engine, CASE).model_copy(update={"num_inference_steps": 1})
    for name in ("read_conditions", "denoise", "decode"):
        with hogging(name):
            try:
                way.engine.render(picture_of(CASE), clip, Attempt())
                say(f"in {name}", "it did not run out")
            except (KinoraError, RuntimeError) as error:
                say(f"in {name}", type(error).__name__)
        way.engine.render(picture_of(CASE), clip, Attempt())
        say(f"after {name}", "the next clip was made")


@contextmanager
def hogging(phase: str) -> Iterator[None]:
    """All memory but half a GB is taken as the phase begins."""
    work = getattr(frames, phase)

    def works(*given: Any) -> Any:
        if not ON_GPU:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info()
        hog = torch.empty(max(0, free - GB // 2), dtype=torch.uint8, device="cuda")
        try:
            return work(*given)
        finally:
            del hog

    with patch.object(frames, phase, works):
        yield


def chunk_25() -> None:
    """Beyond 2³¹ numbers in one tensor of the decoder: is the last frame right? Held against 13 at once."""
    pipeline = pipeline_of()
    for change in speedups.ON_GPU:
        change(pipeline)
    count = CASE.num_frames
    latents = torch.randn(count, 4, CASE.height // 8, CASE.width // 8, device=DEVICE, dtype=DTYPE)
    with torch.no_grad():
        whole = pipeline.vae.decode(latents, num_frames=count).sample[-1].float().cpu()
        # The last frame sees few others: those of a chunk that ends with it are enough.
        some = pipeline.vae.decode(latents[count // 2 :], num_frames=count - count // 2).sample[-1].float().cpu()
    say("last frame", "zeros" if not whole.any() else "not zeros")
    say("mean difference from a smaller chunk", round((whole - some).abs().mean().item(), 4), "of 2")
    say("mean", round(whole.abs().mean().item(), 4), "of 1")


def step(what: str, parts: bool = False, compiled: bool = True) -> None:
    """One guided step of the UNet with every change that is in place now."""
    pipeline = pipeline_of()
    for change in speedups.ON_GPU:
        change(pipeline)
    unet = pipeline.unet
    kind = {"device": DEVICE, "dtype": DTYPE}
    given = (
        torch.randn(2, CASE.num_frames, 8, CASE.height // 8, CASE.width // 8, **kind),
        torch.tensor(1.0, device=DEVICE),
        torch.randn(2, 1, unet.config.cross_attention_dim, **kind),
        torch.tensor([[6, 127, 0.02]] * 2, **kind),
    )
    if parts:
        from worker.engines.svd.feed_forward import part_feed_forwards

        part_feed_forwards(pipeline)
        work_in_parts(unet, True)
    with torch.no_grad():
        fold_in(unet, given[2])
        if compiled and ON_GPU:
            unet.compile(fullgraph=True, dynamic=False)
        say_time(what, lambda: unet(*given))


def steps() -> None:
    """Uncompiled, whole and with the feed-forwards in parts whose products fit the GPU's second cache."""
    step("a step, uncompiled", compiled=False)
    step("a step, uncompiled, feed-forwards in parts", parts=True, compiled=False)


def step_reindexed() -> None:
    """With torch 2.13's loop reindexing, which is switched off."""
    from torch._inductor import config

    with config.patch(loop_reindexing_after_fusion=True):
        step(f"a step, loops reindexed, {COMPILED_HERE}")
    torch.compiler.reset()
    step(f"a step, {COMPILED_HERE}")


def step_with_torchs_norms() -> None:
    with patch.object(group_norm.ChannelsLastGroupNorm, "forward", torch.nn.GroupNorm.forward):
        step(f"a step, torch's norms, {COMPILED_HERE}")


def turbo() -> None:
    say_clip("turbo, uncompiled", Turbo(pipeline_of(), CASE, speedups.ON_GPU, copies=False))


PARTS: dict[str, tuple[float, Callable[[], None]]] = {
    "convolutions": (60, convolutions),
    "attention": (60, attention),
    "clip_uncompiled": (120, clip_uncompiled),
    "clip_compiled": (420, clip_compiled),
    "diffusers": (120, diffusers),
    "memory": (180, memory),
    "chunk_25": (40, chunk_25),
    "running_out": (60, running_out),
    "steps": (60, steps),
    "step_reindexed": (200, step_reindexed),
    "step_with_torchs_norms": (120, step_with_torchs_norms),
    "turbo": (60, turbo),
    "diffusers_compiled": (240, diffusers_compiled),
}
"""Seconds at most, on a GPU, and what measures. In the order of what matters most."""
PATIENCE = 1 if ON_GPU else 6
"""Times these: a CPU that others use too may take long, and nobody waits for it to come free."""


def main() -> None:
    if len(sys.argv) == 1:
        gpu = torch.cuda.get_device_name() if ON_GPU else None
        print(json.dumps({"gpu": gpu, "parts": {name: PATIENCE * seconds for name, (seconds, _) in PARTS.items()}}))
        return
    quieten_libraries()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # stdout is for rows
    begun = time.monotonic()
    _, measure = PARTS[sys.argv[1]]
    measure()
    print(f"{time.monotonic() - begun:.1f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
