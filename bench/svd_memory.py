"""What each memory plan needs for the native clip: `scripts/bench svd --memory`.

Counted on tensors without numbers, and on a GPU measured as well: the engine is given no more than a card of that size
has, so that it takes the plan by itself, or fails.
"""

from dataclasses import asdict
from typing import Any

import torch
from PIL import Image

from bench.peak import build, count
from bench.svd_ways import Way
from core.config.settings import Settings
from core.engines.known import find_engine
from core.errors import KinoraError
from core.requests.clip import Clip, ClipRequest
from core.requests.resolve import resolve
from harness.random_svd import build_pipeline
from worker.attempt import Attempt
from worker.engines.svd.memory import GB, PLANS, needed, with_memory_plan
from worker.engines.svd.placing import weights_of
from worker.engines.svd.speedups import ON_GPU, SpeedUp
from worker.engines.svd.svd import Svd

SETTINGS = Settings(_env_file=None)

NOT_FOR_TORCH = 0.5
"""GB of a card: CUDA's context, and what its memory is less than its name says."""


def measure() -> list[dict[str, Any]]:
    """A row for each plan, in GB of 2**30 bytes; None if there is no GPU to measure on."""
    pipeline, usual = build(), native_clip()
    weights = weights_of(pipeline)
    rows = [counted(pipeline, with_memory_plan(usual, name), weights) for name in PLANS]
    on_gpu = measured(usual) if torch.cuda.is_available() else {}
    nothing = {"taken": None, "allocated": None, "reserved": None}
    return [row | on_gpu.get(row["plan"], nothing) for row in rows]


def native_clip() -> Clip:
    clip, _ = resolve(ClipRequest(seed=0), find_engine("svd-xt", SETTINGS), SETTINGS)
    return clip


def counted(pipeline: Any, clip: Clip, weights: dict[str, int]) -> dict[str, Any]:
    """Each phase with the weights that are there, the most of them, and what the plan is taken to need."""
    name = str(clip.memory_plan)
    there = weights if PLANS[name].offloads else dict.fromkeys(weights, sum(weights.values()))
    phases = {phase: (there[phase] + held) / GB for phase, held in count(pipeline, clip).items()}
    most = {"counted": max(phases.values()), "needed": needed(clip, weights) / GB}
    return {"plan": name, "chunk": clip.decode_chunk_size, **phases, **most}


def measured(usual: Clip) -> dict[str, dict[str, Any]]:
    """For each card that is no larger than this one the plan that the engine took, and the peak of torch's memory."""
    pipeline = build_pipeline("cuda", reduced=False).to("cpu")
    return {name: on_card(pipeline, usual, name, ON_GPU) for name in PLANS if share_of(name) < 1}


def share_of(card: str) -> float:
    """Of this GPU's memory what `card`, "12 GB", has for torch."""
    return (float(card.split()[0]) - NOT_FOR_TORCH) * GB / torch.cuda.get_device_properties(0).total_memory


def on_card(pipeline: Any, usual: Clip, card: str, speed_ups: tuple[SpeedUp, ...]) -> dict[str, Any]:
    """What an engine does that is given no more than `card` has: four clips of two steps, between whose sizes an
    allocator's holes do not fit."""
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(share_of(card))
    engine = Svd(find_engine("svd-xt", SETTINGS), SETTINGS)
    try:
        engine.hold(Way(pipeline).pipeline, speed_ups, "cuda")
        torch.cuda.reset_peak_memory_stats()
        taken = []
        for size in ({}, {"width": 576, "height": 1024}, {"width": 768, "height": 768, "num_frames": 20}, {}):
            clip = engine.with_memory_plan(usual.model_copy(update={"num_inference_steps": 2} | size))
            engine.render(Image.effect_noise((clip.width, clip.height), 50).convert("RGB"), clip, Attempt())
            taken.append(clip.memory_plan)
        peaks = {"allocated": torch.cuda.max_memory_allocated(), "reserved": torch.cuda.max_memory_reserved()}
        return {"taken": ", ".join(map(str, taken))} | {key: peak / GB for key, peak in peaks.items()}
    except KinoraError as error:
        return {"taken": error.message, "allocated": None, "reserved": None}
    finally:
        engine.unload()
        torch.cuda.set_per_process_memory_fraction(1.0)


def plans() -> dict[str, Any]:
    return {name: asdict(plan) for name, plan in PLANS.items()}
