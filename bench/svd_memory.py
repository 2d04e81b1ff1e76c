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
from core.config import Settings
from core.engines import find_engine
from core.spec import Clip, ClipRequest, resolve
from harness.random_svd import build_pipeline
from worker.attempt import Attempt
from worker.engines.svd import Svd
from worker.svd.memory import GB, PLANS, needed, settle
from worker.svd.placing import weights_of
from worker.svd.speedups import ON_GPU

SETTINGS = Settings(_env_file=None)

NOT_FOR_TORCH = 0.5
"""GB of a card: CUDA's context, and what its memory is less than its name says."""


def measure() -> list[dict[str, Any]]:
    """A row for each plan, in GB of 2**30 bytes; None where there is no GPU to measure on."""
    pipeline, usual = build(), native_clip()
    weights = weights_of(pipeline)
    rows = [counted(pipeline, settle(usual, name), weights) for name in PLANS]
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
    """For each card the plan that the engine took, and the peak of torch's memory in a clip of two steps."""
    pipeline = build_pipeline("cuda", reduced=False).to("cpu")
    total, found = torch.cuda.get_device_properties(0).total_memory, {}
    for name in PLANS:
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction((float(name.split()[0]) - NOT_FOR_TORCH) * GB / total)
        engine = Svd(find_engine("svd-xt", SETTINGS), SETTINGS)
        engine.hold(Way(pipeline).pipeline, ON_GPU, "cuda")
        clip = engine.settle(usual.model_copy(update={"num_inference_steps": 2}))
        torch.cuda.reset_peak_memory_stats()
        engine.render(Image.effect_noise((clip.width, clip.height), 50).convert("RGB"), clip, Attempt())
        peaks = {"allocated": torch.cuda.max_memory_allocated(), "reserved": torch.cuda.max_memory_reserved()}
        found[name] = {"taken": clip.memory_plan} | {key: peak / GB for key, peak in peaks.items()}
        engine.unload()
    torch.cuda.set_per_process_memory_fraction(1.0)
    return found


def plans() -> dict[str, Any]:
    return {name: asdict(plan) for name, plan in PLANS.items()}
