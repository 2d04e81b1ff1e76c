"""Stable Video Diffusion XT with random weights: diffusers as it comes, and Kinora's engine, change by change.

    scripts/bench svd                  # on a GPU: 25 frames of 1024×576, 25 steps, guided, float16
    scripts/bench svd --size 576x320 --frames 14 --steps 10
    scripts/bench svd --compile        # without a GPU: torch.compile as well, for which a CPU needs half an hour
    scripts/bench svd --quality        # instead: what each way to do less work costs, beside the exact clip
    scripts/bench svd --batch          # instead: whether clips that share a step are more of them an hour
    scripts/bench svd --memory         # instead: how much of a GPU's memory each memory plan needs

Nothing is downloaded: speed does not depend on what the weights say. Each way makes the same clip of the same noise on
models of its own. Without a GPU they take turns, so that what slows the machine slows them all, and a REDUCED model
renders a small clip; the table and the file say so, and such figures compare ways, they are not SVD's speed.

`whole` is one clip alone, from picture to MP4. In Kinora a clip is finalized while the next one denoises, so a busy
worker takes `busy` for a clip.
"""

import argparse
import gc
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from bench import rivals
from worker.engines.torch_environment import set_torch_environment

# At their import torch settles on a folder for compiled programs, and diffusers on what it writes videos with.
set_torch_environment()
rivals.install()
sys.path.append(str(rivals.site_packages()))

import numpy as np
import torch
from PIL import Image

from bench import svd_batch, svd_memory, svd_quality
from bench.flops import count
from bench.kernels import time_by_class
from bench.previews import Watching
from bench.svd_chart import draw
from bench.svd_ways import Diffusers, Figures, Kinora, NotMade, Turbo, Way, clip_of
from core.errors import KinoraError
from harness.random_svd import (
    FULL_CASE,
    PARAMETERS,
    REDUCED,
    REDUCED_CASE,
    REDUCED_QUALITY_CASE,
    Case,
    build_pipeline,
    parameters,
)
from harness.report import RESULTS, machine, print_table, write
from worker.attempt import Attempt
from worker.engines.causes import first_line
from worker.engines.svd.attention import pin_attention
from worker.engines.svd.compiling import compile_decoder, compile_no_more, compile_unet, use_channels_last
from worker.engines.svd.cross_attention import fold_cross_attention
from worker.engines.svd.group_norm import use_channels_last_norms
from worker.engines.svd.temporal_convolution import use_conv2d
from worker.engines.svd.weights import quieten_libraries

ON_GPU_NOW = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU_NOW else "cpu"
PICTURE = Path(__file__).parents[1] / "samples" / "coffee.jpg"

# Each with all those before it.
LADDER = {
    "Kinora's loop": None,
    "+ cross-attention folded": fold_cross_attention,
    "+ conv2d along frames": use_conv2d,
    "+ channels last": use_channels_last,
    "+ norms that keep them so": use_channels_last_norms,
    "+ attention pinned": pin_attention,
    "+ UNet compiled": compile_unet,
    "+ decoder compiled": compile_decoder,
}
TURBO = "another model: turbo"
COMPILED = ("diffusers, compiled", "+ UNet compiled", "+ decoder compiled")
MATRIX = (torch.bfloat16, 8192) if ON_GPU_NOW else (torch.float32, 2048)


def ways(case: Case, pipeline: Any, compiled: bool) -> dict[str, Callable[[], Way]]:
    """How each is made, in the order in which they are shown."""
    made: dict[str, Callable[[], Way]] = {
        "diffusers": partial(Diffusers, pipeline),
        "diffusers, compiled": partial(Diffusers, pipeline, compiled=True),
        TURBO: partial(Turbo, pipeline, case),
    }
    changes: tuple[Any, ...] = ()
    for name, change in LADDER.items():
        changes += (change,) if change else ()
        made[name] = partial(Kinora, pipeline, case, changes)
    return {name: way for name, way in made.items() if compiled or name not in COMPILED}


Keep = Callable[[dict[str, Figures], dict[str, str]], object]


def measure(
    made: dict[str, Callable[[], Way]], picture: Image.Image, case: Case, runs: int, keep: Keep
) -> dict[str, Any]:
    """For each way the figures of each run, and how far its clip is from diffusers' own; the last way itself; why ways
    fail that do. On a GPU `keep` gets what there is after each way, the figures of its median run and why others fail.
    """
    there: dict[str, Way] = {}
    rounds: list[dict[str, Figures]] = [{} for _ in range(runs)]
    agreement, expected, failed = {}, None, {}
    way: Way | None = None
    last: Way | None = None
    for name, make in made.items():
        if ON_GPU_NOW:  # where nothing else slows it, and not every card holds them all
            way = last = None
            there.clear()
            gc.collect()
        try:
            way = make()
            way.time(picture, case)  # compiles, and warms up
        except (KinoraError, NotMade, RuntimeError) as error:
            failed[name] = first_line(error)
            print(f"{name}: {failed[name]}", file=sys.stderr)
            compile_no_more()
            continue
        there[name] = last = way
        compile_no_more()
        expected = way.frames if expected is None else expected
        if name != TURBO:
            agreement[name] = compare(way.frames, expected)
        print(f"{name}: ready", file=sys.stderr)
        if ON_GPU_NOW:
            for figures in rounds:
                figures[name] = timed(way, picture, case)
            keep({each: middle(rounds, each) for each in rounds[0]}, failed)
    for figures in rounds:
        figures |= {name: timed(way, picture, case) for name, way in there.items() if not ON_GPU_NOW}
    return {"last": last, "rounds": rounds, "agreement": agreement, "failed": failed}


def timed(way: Way, picture: Image.Image, case: Case) -> Figures:
    """With the peak of the GPU's memory in GiB: this way's weights, and what comes on top of all that lies there."""
    if not ON_GPU_NOW:
        return way.time(picture, case)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    found = way.time(picture, case)
    return found | {"peak_gib": (torch.cuda.max_memory_allocated() - before + way.weights_bytes) / 2**30}


def compare(frames: np.ndarray, expected: np.ndarray) -> dict[str, float | None]:
    """Of 255: the largest difference; the share of bytes that differ, in percent; PSNR in dB (None: equal)."""
    difference = np.abs(frames.astype(int) - expected)
    error = float((difference**2).mean())
    return {
        "largest": int(difference.max()),
        "percent": 100 * float((difference > 0).mean()),
        "psnr_db": 10 * float(np.log10(255**2 / error)) if error else None,
    }


def middle(rounds: list[dict[str, Figures]], name: str) -> Figures:
    """The run that took the median time, so that its parts add up to its whole."""
    return sorted((figures[name] for figures in rounds), key=lambda figures: figures["whole"])[len(rounds) // 2]


def matrix_rate() -> float:
    """TFLOP/s of one large product of random matrices, the best of ten."""
    dtype, side = MATRIX
    left, right = (torch.randn(side, side, device=DEVICE, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(12):
        begun = clock()
        left @ right
        seconds.append(clock() - begun)
    return 2 * side**3 / min(seconds[2:]) / 1e12


def clock() -> float:
    if ON_GPU_NOW:
        torch.cuda.synchronize()
    return time.perf_counter()


def start_up(case: Case, compiled: bool) -> dict[str, dict[str, float]]:
    """Seconds to get ready, each in a process of its own: without torch.compile, with it for the first time, and again
    with what that time left in the model cache."""
    found = {"not compiled": start(case, "plain", None)}
    if compiled:
        with tempfile.TemporaryDirectory(prefix="kinora-compiled-") as folder:
            found |= {name: start(case, "compiled", folder) for name in ("compiled, cold", "compiled, warm")}
    return found


def start(case: Case, how: str, folder: str | None) -> dict[str, float]:
    environment = os.environ | ({"TORCHINDUCTOR_CACHE_DIR": folder, "TRITON_CACHE_DIR": folder} if folder else {})
    command = [sys.executable, "-m", "bench.svd_start", json.dumps(asdict(case)), how]
    done = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE)
    seconds: dict[str, float] = json.loads(done.stdout)
    return seconds


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", help="pixels, multiples of 64 (1024x576; without a GPU less)")
    parser.add_argument("--frames", type=int, help="(25; without a GPU less)")
    parser.add_argument("--steps", type=int, help="(25; without a GPU 2, or for --quality 25)")
    parser.add_argument("--runs", type=int, default=5, help="clips of which the median counts (%(default)s)")
    parser.add_argument("--compile", action="store_true", default=ON_GPU_NOW, help="what a GPU does anyway")
    parser.add_argument("--quality", action="store_true", help="instead: what each way to do less work costs")
    parser.add_argument("--batch", action="store_true", help="instead: whether clips gain by sharing a step")
    parser.add_argument("--memory", action="store_true", help="instead: what each memory plan needs")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the figures (%(default)s)")
    return parser.parse_args()


def compare_all(case: Case, runs: int, compiled: bool, keep: Keep) -> dict[str, Any]:
    reduced = not ON_GPU_NOW
    pipeline = build_pipeline(DEVICE, reduced=reduced)
    sizes = parameters(pipeline)
    if not reduced and any(sizes[name] != expected for name, expected in PARAMETERS.items()):
        raise SystemExit(f"this is not SVD-XT: it has {sizes} million parameters instead of {PARAMETERS}")
    noise = np.random.default_rng(0).integers(0, 256, (case.height, case.width, 3), np.uint8)
    picture = Image.fromarray(noise)
    starts = start_up(case, compiled)
    found = measure(ways(case, pipeline, compiled), picture, case, runs, keep)
    figures = {name: middle(found["rounds"], name) for name in found["rounds"][0]}
    keep(figures, found["failed"])
    if not isinstance(found["last"], Kinora) or "diffusers" not in figures:
        raise SystemExit(f"nothing to compare; what there is was written: {found['failed']}")
    last = list(figures)[-1]
    engine, watching = found["last"].engine, Watching()
    clip = clip_of(engine, case)
    for _ in range(runs):
        watching.render(engine, picture, clip)
    flops = {"diffusers": count(case, reduced=reduced, ours=False), "kinora": count(case, reduced=reduced, ours=True)}
    rate = matrix_rate()
    return {
        "reduced": REDUCED if reduced else None,
        "parameters_m": sizes,
        "figures": figures,
        "agreement": found["agreement"],
        "failed": found["failed"],
        # Of each run's pair, since a busy machine slows both.
        "speedup": {
            name: median(each["diffusers"]["whole"] / each[name]["whole"] for each in found["rounds"])
            for name in figures
        },
        "start_up": starts,
        "tflop": flops,
        "tflop_full_size": {
            "diffusers": count(FULL_CASE, reduced=False, ours=False),
            "kinora": count(FULL_CASE, reduced=False, ours=True),
        },
        "matrix": {
            "what": f"{MATRIX[0]}, {MATRIX[1]} by {MATRIX[1]}".removeprefix("torch."),
            "tflop_s": rate,
            "share": {
                "diffusers": flops["diffusers"]["whole"] / figures["diffusers"]["whole"] / rate,
                last: flops["kinora"]["whole"] / figures[last]["busy"] / rate,
            },
        },
        "seconds_by_class": time_by_class(partial(engine.render, picture, clip, Attempt())),
        "previews": watching.figures(),
    }


def show(results: dict[str, Any], case: Case, runs: int) -> None:
    print(f"Stable Video Diffusion XT, random weights: {described(case)}; seconds, median of {runs}")
    if results["reduced"]:
        print(f"REDUCED: {results['reduced']}. GPU: NOT MEASURED, there is none here.")
    columns = ("encode", "denoise", "decode", "finalize", "whole", "busy", "peak_gib")
    rows = []
    for name, figures in results["figures"].items():
        seconds = {column: figures.get(column) for column in columns}
        rows.append({"way": name, **seconds, "× diffusers": results["speedup"][name]})
    print_table(rows)
    for name, reason in results["failed"].items():
        print(f"{name}: {reason}")
    for title, key in (
        ("how far from diffusers' own clip, of 255", "agreement"),
        ("seconds to get ready", "start_up"),
        ("TFLOP of the clip", "tflop"),
        ("TFLOP at full size", "tflop_full_size"),
    ):
        print(f"\n{title}")
        print_table([{"": name, **values} for name, values in results[key].items()])
    matrix = results["matrix"]
    print(f"\nmatrix product ({matrix['what']}): {matrix['tflop_s']:.3g} TFLOP/s; share of it that a clip reaches:")
    print_table([{"": name, "percent": 100 * share} for name, share in matrix["share"].items()])
    print("\nthe device's time by class")
    print_table([{"class": name, "seconds": seconds} for name, seconds in results["seconds_by_class"].items()])
    print("\nwhat previews cost whoever denoises, and one of them another thread")
    print_table([results["previews"]])


def described(case: Case) -> str:
    return f"{case.num_frames} frames of {case.width}×{case.height}, {case.num_inference_steps} steps, guided"


def compare_quality(case: Case, runs: int, out: Path) -> None:
    pipeline = build_pipeline(DEVICE, reduced=not ON_GPU_NOW)
    picture = Image.open(PICTURE).convert("RGB")
    where = machine("torch", "diffusers", "scikit-image")
    name = f"svd-quality-{slug(where)}"
    case_and_machine = {"case": asdict(case) | {"runs": runs}, "machine": where, "random_weights": True}
    rows = svd_quality.measure(
        pipeline, picture, case, runs, lambda rows: write(name, case_and_machine | {"figures": rows}, out)
    )
    title = f"Stable Video Diffusion XT, {'' if ON_GPU_NOW else 'REDUCED, '}RANDOM WEIGHTS: {described(case)}"
    print(f"{title}\nThe exact clip of the same seed is the measure. {REDUCED if not ON_GPU_NOW else ''}")
    print_table(rows)
    print(write(name, case_and_machine | {"figures": rows}, out))
    svd_quality.draw(rows, title, out / f"{name}.svg", on_gpu=ON_GPU_NOW)


def compare_batches(case: Case, runs: int, out: Path) -> None:
    rows = svd_batch.measure(build_pipeline(DEVICE, reduced=not ON_GPU_NOW), case, runs)
    print(f"one guided step, {case.num_frames} frames of {case.width}×{case.height}, random weights")
    print(f"{'' if ON_GPU_NOW else f'REDUCED: {REDUCED}. GPU: NOT MEASURED, there is none here.'}")
    print_table(rows)
    where = machine("torch", "diffusers")
    case_and_machine = {"case": asdict(case) | {"runs": runs}, "machine": where}
    print(write(f"svd-batch-{slug(where)}", case_and_machine | {"figures": rows}, out))


def compare_plans(out: Path) -> None:
    rows = svd_memory.measure()
    print("Stable Video Diffusion XT, 25 frames of 1024×576, guided: GB of the GPU's memory in each phase, as counted")
    if not ON_GPU_NOW:
        print("GPU: NOT MEASURED, there is none here.")
    print_table(rows)
    where = machine("torch", "diffusers")
    print(write("svd-memory", {"machine": where, "plans": svd_memory.plans(), "figures_gb": rows}, out))


def slug(where: dict[str, Any]) -> str:
    return re.sub(r"\W+", "-", where["gpu"]).lower() if where["gpu"] else "cpu"


def main() -> None:
    given = arguments()
    usual = FULL_CASE if ON_GPU_NOW else REDUCED_QUALITY_CASE if given.quality else REDUCED_CASE
    width, height = map(int, given.size.split("x")) if given.size else (usual.width, usual.height)
    case = Case(width, height, given.frames or usual.num_frames, given.steps or usual.num_inference_steps)
    quieten_libraries()
    if given.quality:
        compare_quality(case, given.runs, given.out)
        return
    if given.batch:
        compare_batches(case, given.runs, given.out)
        return
    if given.memory:
        compare_plans(given.out)
        return
    where = machine("torch", "diffusers", "transformers", "av")
    name = f"svd-{slug(where)}"
    described_case = {"case": asdict(case) | {"runs": given.runs}, "machine": where}

    def keep(figures: dict[str, Figures], failed: dict[str, str]) -> None:
        write(name, described_case | {"figures": figures, "failed": failed}, given.out)

    results = compare_all(case, given.runs, given.compile, keep)
    results["process_peak_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts in KiB
    show(results, case, given.runs)
    title = f"{where['gpu'] or 'REDUCED model, ' + where['cpu']}: {described(case)}"
    print(write(name, described_case | results, given.out))
    draw(results["figures"], title, given.out / f"{name}.svg")


if __name__ == "__main__":
    main()
