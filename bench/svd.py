"""Stable Video Diffusion XT with random weights: diffusers as it comes, and Kinora's engine on the same pipeline.

    python -m bench.svd                 # on a GPU: 25 frames of 1024×576, 25 steps, guided, float16
    python -m bench.svd --size 576x320 --frames 14 --steps 10

Nothing is downloaded: speed does not depend on what the weights say. Without a GPU a REDUCED model renders a small
clip in about a minute, and the table and the file say so; such figures compare two paths, they are not SVD's speed.
"""

import argparse
import resource
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from diffusers import (
    AutoencoderKLTemporalDecoder,
    EulerDiscreteScheduler,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
)
from PIL import Image
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from bench.report import RESULTS, machine, print_table, write
from core.config import Settings
from core.engines import find_engine
from core.spec import Clip
from worker.attempt import Attempt
from worker.engines.svd import Svd
from worker.screening import Screening
from worker.svd.latents import Emerging
from worker.svd.weights import quieten_libraries

# The configurations of stabilityai/stable-video-diffusion-img2vid-xt.
UNET: dict[str, Any] = {
    "sample_size": 96,
    "in_channels": 8,
    "out_channels": 4,
    "down_block_types": ("CrossAttnDownBlockSpatioTemporal",) * 3 + ("DownBlockSpatioTemporal",),
    "up_block_types": ("UpBlockSpatioTemporal",) + ("CrossAttnUpBlockSpatioTemporal",) * 3,
    "block_out_channels": (320, 640, 1280, 1280),
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 768,
    "layers_per_block": 2,
    "cross_attention_dim": 1024,
    "transformer_layers_per_block": 1,
    "num_attention_heads": (5, 10, 20, 20),
    "num_frames": 25,
}
VAE: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 768,
    "scaling_factor": 0.18215,
    "force_upcast": True,
}
IMAGE_ENCODER: dict[str, Any] = {  # ViT-H/14
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "projection_dim": 1024,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "hidden_act": "gelu",
}
SCHEDULER: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "sigma_max": 700.0,
    "sigma_min": 0.002,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "timestep_type": "continuous",
    "use_karras_sigmas": True,
}
PARAMETERS = {"unet": 1524.6, "vae": 97.7}
"""Millions, of the public model's weights."""


# What two CPU cores do in about a minute: a fifth of the UNet's width, a quarter of the VAE's, a shallow image encoder.
REDUCED = "UNet 1/5 as wide, VAE 1/4, 4 of 32 layers in the image encoder"
REDUCED_UNET = UNET | {"block_out_channels": (64, 128, 256, 256), "num_attention_heads": (1, 2, 4, 4)}
REDUCED_VAE = VAE | {"block_out_channels": (32, 64, 128, 128)}
REDUCED_IMAGE_ENCODER = IMAGE_ENCODER | {"num_hidden_layers": 4}

Figures = dict[str, float]
"""Seconds of each part and of the whole; on a GPU also the peak of its memory in GiB."""


@dataclass(frozen=True)
class Case:
    """The clip that is timed, in pixels and frames; guided, so each step runs the UNet on two samples."""

    width: int
    height: int
    num_frames: int
    num_inference_steps: int
    decode_chunk_size: int = 8


FULL_CASE = Case(width=1024, height=576, num_frames=25, num_inference_steps=25)
REDUCED_CASE = Case(width=256, height=192, num_frames=4, num_inference_steps=2)


def build_pipeline(device: str, *, reduced: bool) -> Any:
    """SVD-XT's architecture with random weights: float16 on a GPU, as its weights are published, else float32."""
    torch.manual_seed(0)
    with torch.device(device):
        unet = UNetSpatioTemporalConditionModel(**(REDUCED_UNET if reduced else UNET))
        vae = AutoencoderKLTemporalDecoder(**(REDUCED_VAE if reduced else VAE))
        vision = CLIPVisionConfig(**(REDUCED_IMAGE_ENCODER if reduced else IMAGE_ENCODER))
        image_encoder = CLIPVisionModelWithProjection(vision)
    pipeline = StableVideoDiffusionPipeline(
        unet=unet,
        vae=vae,
        image_encoder=image_encoder,
        scheduler=EulerDiscreteScheduler(**SCHEDULER),
        feature_extractor=CLIPImageProcessor(),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device, torch.float16 if device == "cuda" else torch.float32)


def parameters(pipeline: Any) -> dict[str, float]:
    """Millions."""
    models = {name: getattr(pipeline, name) for name in ("unet", "vae", "image_encoder")}
    return {name: round(sum(p.numel() for p in model.parameters()) / 1e6, 1) for name, model in models.items()}


def now() -> float:
    """Seconds, once the device has done all that was asked of it."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def time_diffusers(pipeline: Any, picture: Image.Image, case: Case) -> Figures:
    """One clip as diffusers comes, with its own defaults, to the pictures that it returns."""
    marks: dict[str, float] = {}

    def mark(name: str, *, last: bool = False) -> Callable[..., None]:
        def hook(*_: object) -> None:
            if last or name not in marks:
                marks[name] = now()

        return hook

    hooks = (
        pipeline.unet.register_forward_pre_hook(mark("denoise")),
        pipeline.vae.decoder.register_forward_pre_hook(mark("decode")),
        pipeline.vae.decoder.register_forward_hook(mark("decoded", last=True)),
    )
    begun = now()
    pipeline(picture, generator=torch.manual_seed(0), **asdict(case))
    whole = now() - begun
    for hook in hooks:
        hook.remove()
    return split(marks["decode"] - marks["denoise"], marks["decoded"] - marks["decode"], whole)


def time_kinora(engine: Svd, picture: Image.Image, case: Case) -> Figures:
    """The same clip through the engine, to the frames that go to the encoder; its decode has the conversion in it."""
    clip = Clip(engine=engine.engine.name, seed=0, **engine.engine.defaults | asdict(case))
    attempt = Attempt(engine.phases)
    begun = now()
    engine.render(picture, clip, attempt)
    return split(attempt.seconds["denoise"], attempt.seconds["decode"], now() - begun)


class Kept:
    """Stands in for Redis: counts what it is given, and what the thread that gives it has used of a core."""

    def __init__(self) -> None:
        self.count, self.core_seconds = 0, 0.0

    def put(self, _task_id: str, _webp: bytes) -> None:
        self.count, self.core_seconds = self.count + 1, time.thread_time()

    def forget(self, _task_id: str) -> None:
        pass


class Watching:
    """Renders clips while somebody looks on, and adds up what that costs."""

    def __init__(self) -> None:
        self.paid: list[float] = []
        """Seconds of whoever denoises, for each step."""
        self.denoising: list[float] = []
        self.previews, self.core_seconds = 0, 0.0

    def time_kinora(self, engine: Svd, picture: Image.Image, case: Case) -> Figures:
        clip = Clip(engine=engine.engine.name, seed=0, **engine.engine.defaults | asdict(case))
        attempt, kept, step_queued = Attempt(engine.phases), Kept(), Emerging.step_queued

        def timed(*given: Any) -> None:
            begun = time.perf_counter()
            step_queued(*given)
            self.paid.append(time.perf_counter() - begun)

        begun = now()
        with patch.object(Emerging, "step_queued", timed), Screening(kept, "bench", attempt):
            engine.render(picture, clip, attempt)
        whole = now() - begun
        self.denoising.append(attempt.seconds["denoise"] / case.num_inference_steps)
        self.previews, self.core_seconds = self.previews + kept.count, self.core_seconds + kept.core_seconds
        return split(attempt.seconds["denoise"], attempt.seconds["decode"], whole)

    def figures(self) -> Figures:
        return {
            "previews": self.previews,
            "core_ms_each": 1000 * self.core_seconds / max(1, self.previews),
            "us_of_a_step": 1e6 * mean(self.paid),
            "worst_us_of_a_step": 1e6 * max(self.paid),
            "percent_of_a_step": 100 * mean(self.paid) / mean(self.denoising),
        }


def split(denoise: float, decode: float, whole: float) -> Figures:
    return {"denoise": denoise, "decode": decode, "rest": whole - denoise - decode, "whole": whole}


def measure(paths: dict[str, Callable[[], Figures]], runs: int) -> list[dict[str, Figures]]:
    """Each path's figures in each run; the paths take turns, so that what slows the machine slows them all."""
    on_gpu = torch.cuda.is_available()
    rounds = []
    for _ in range(runs + 1):
        figures = {}
        for name, path in paths.items():
            if on_gpu:
                torch.cuda.reset_peak_memory_stats()
            figures[name] = path()
            if on_gpu:
                figures[name]["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
        rounds.append(figures)
    return rounds[1:]  # the first warmed up


def middle(rounds: list[dict[str, Figures]], path: str) -> Figures:
    """The run that took the median time, so that its parts add up to its whole."""
    return sorted((figures[path] for figures in rounds), key=lambda figures: figures["whole"])[len(rounds) // 2]


def arguments(case: Case) -> tuple[Case, int, Path]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default=f"{case.width}x{case.height}", help="pixels, multiples of 64 (%(default)s)")
    parser.add_argument("--frames", type=int, default=case.num_frames, help="(%(default)s)")
    parser.add_argument("--steps", type=int, default=case.num_inference_steps, help="(%(default)s)")
    parser.add_argument("--runs", type=int, default=5, help="clips of which the median counts (%(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the figures (%(default)s)")
    given = parser.parse_args()
    width, height = map(int, given.size.split("x"))
    return Case(width, height, given.frames, given.steps), given.runs, given.out


def compare(case: Case, runs: int, device: str) -> dict[str, Any]:
    """Both paths on one pipeline, timed on the same noise: weights and pixels are random, never zeros."""
    reduced = device == "cpu"
    pipeline = build_pipeline(device, reduced=reduced)
    sizes = parameters(pipeline)
    if not reduced and any(sizes[name] != expected for name, expected in PARAMETERS.items()):
        raise SystemExit(f"this is not SVD-XT: it has {sizes} million parameters instead of {PARAMETERS}")
    settings = Settings(_env_file=None)
    engine = Svd(find_engine("svd-xt", settings), settings)
    engine.hold(pipeline)
    noise = np.random.default_rng(0).integers(0, 256, (case.height, case.width, 3), np.uint8)
    picture = Image.fromarray(noise)
    watching = Watching()
    paths = {
        "diffusers": lambda: time_diffusers(pipeline, picture, case),
        "kinora": lambda: time_kinora(engine, picture, case),
        "kinora, watched": lambda: watching.time_kinora(engine, picture, case),
    }
    rounds = measure(paths, runs)
    return {
        "reduced": REDUCED if reduced else None,
        "parameters_m": sizes,
        "figures": {name: middle(rounds, name) for name in paths},
        # Of each run's pair, since a busy machine slows both.
        "previews": watching.figures(),
        "speedup": median(figures["diffusers"]["whole"] / figures["kinora"]["whole"] for figures in rounds),
    }


def show(results: dict[str, Any], case: Case, runs: int) -> None:
    clip = f"{case.num_frames} frames of {case.width}×{case.height}, {case.num_inference_steps} steps, guided"
    print(f"Stable Video Diffusion XT, random weights: {clip}; seconds, median of {runs}")
    if results["reduced"]:
        print(f"REDUCED: {results['reduced']}. GPU: NOT MEASURED, there is none here.")
    print_table([{"path": name, **figures} for name, figures in results["figures"].items()])
    print(f"diffusers / kinora: {results['speedup']:.3f}")
    print("what previews cost whoever denoises, and one of them another thread:")
    print_table([results["previews"]])


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    case, runs, out = arguments(FULL_CASE if device == "cuda" else REDUCED_CASE)
    quieten_libraries()
    results = compare(case, runs, device)
    results["process_peak_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts in KiB
    show(results, case, runs)
    described = {"case": asdict(case) | {"runs": runs}, "machine": machine("torch", "diffusers", "transformers")}
    print(write(f"svd-{device}", described | results, out))


if __name__ == "__main__":
    main()
