"""What each way to do less work costs, beside the exact clip from the same seed: `scripts/bench svd --quality`."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from skimage.metrics import structural_similarity

from bench.flops import share_of_shallow
from bench.fp8 import has_fp8, use_fp8
from bench.svd_ways import Kinora, clip_of, now
from core.engines.base import Approximation
from core.engines.svd import SVD_FAST
from core.errors import KinoraError
from harness.random_svd import FULL_CASE, Case
from worker.attempt import Attempt
from worker.engines.causes import first_line
from worker.engines.svd.speedups import EVERYWHERE, ON_GPU

Frames = NDArray[np.uint8]

GOOD_DB = 30.0


@dataclass(frozen=True)
class Setting:
    name: str
    approximation: Approximation | None = None
    num_inference_steps: int | None = None
    fp8: bool = False


def settings(steps: int, fp8: bool) -> list[Setting]:
    """Each lever alone, fewer steps for comparison, and mixes."""
    exact = [Setting("exact"), *[Setting("exact, fp8", fp8=True)] * fp8]
    fewer = [Setting(f"{count} steps", num_inference_steps=count) for count in (steps * 4 // 5, steps // 2)]
    cached = [(2, 1), (2, 2), (2, 3), (3, 1), (3, 2), (4, 1), (5, 1)]
    alone = [named(Approximation(every, layers, 1.0)) for every, layers in cached]
    alone += [named(Approximation(1, 1, part)) for part in (0.9, 0.8, 0.6, 0.4)]
    mixes = [named(Approximation(every, 1, part)) for every, part in product((2, 3, 4), (0.8, 0.6))]
    return [*exact, *fewer, *alone, *mixes, *[named(SVD_FAST, fp8=True)] * fp8]


def named(how: Approximation, fp8: bool = False) -> Setting:
    parts = [f"1 of {how.full_every} full, {how.fresh_layers} fresh"] * (how.full_every > 1)
    parts += [f"{100 * how.guided_part:g} % guided"] * (how.guided_part < 1)
    return Setting(", ".join([*parts, *["fp8"] * fp8]), how, fp8=fp8)


def work(setting: Setting, steps: int, shallow: dict[int, float]) -> float:
    """Share of the exact clip's denoising; `shallow` has that of a shallow step by its fresh layers. An eight-bit
    product counts as any other."""
    count, how = setting.num_inference_steps or steps, setting.approximation
    if how is None:
        return count / steps
    guided, done = round(how.guided_part * count), 0.0
    for step in range(count):
        full = step in (0, guided) or step % how.full_every == 0
        done += (2 if step < guided else 1) * (1 if full else shallow[how.fresh_layers])
    return done / (2 * steps)


Rows = list[dict[str, Any]]
NOTHING: dict[str, Any] = {"psnr_db": None, "ssim": None, "flicker": None}


def measure(pipeline: Any, picture: Image.Image, case: Case, runs: int, keep: Callable[[Rows], object]) -> Rows:
    """A row for each setting, the exact one first; seconds are the median of `runs` turns, in each of which all have
    theirs. Not compiled: that would take minutes for each. `keep` gets what there is after each turn."""
    shallow = {layers: share_of_shallow(FULL_CASE, layers) for layers in (1, 2, 3)}
    eight_bits = pipeline.device.type == "cpu" or has_fp8(pipeline.device)  # a CPU imitates it
    all_settings = settings(case.num_inference_steps, eight_bits)
    seconds: dict[str, list[float]] = {setting.name: [] for setting in all_settings}
    found: dict[str, dict[str, Any]] = {}
    exact = None
    for turn in range(runs):
        for setting in all_settings:
            try:
                frames, took = render(pipeline, picture, case, setting)
            except (KinoraError, RuntimeError) as error:
                found[setting.name] = NOTHING | {"fails": first_line(error)}
                print(f"{turn + 1} of {runs}: {setting.name} fails: {first_line(error)}", file=sys.stderr)
                continue
            exact = frames if exact is None else exact
            seconds[setting.name].append(took)
            if not turn:
                found[setting.name] = quality(frames, exact) | {"fails": None}
            print(f"{turn + 1} of {runs}: {setting.name}, {took:.1f} s", file=sys.stderr)
        keep(rows_of(all_settings, seconds, found, case, shallow))
    return rows_of(all_settings, seconds, found, case, shallow)


def rows_of(
    all_settings: list[Setting],
    seconds: dict[str, list[float]],
    found: dict[str, dict[str, Any]],
    case: Case,
    shallow: dict[int, float],
) -> list[dict[str, Any]]:
    times = {name: median(each) if each else None for name, each in seconds.items()}
    rows = []
    for setting in all_settings:
        exact, mine = times["exact"], times[setting.name]
        row = {"setting": setting.name, "seconds": mine, "× exact": exact / mine if exact and mine else None}
        rows.append(row | {"work": work(setting, case.num_inference_steps, shallow)} | found[setting.name])
    return rows


def render(pipeline: Any, picture: Image.Image, case: Case, setting: Setting) -> tuple[Frames, float]:
    """The clip, and the seconds from picture to frames; the engine has warmed up as it was made."""
    speed_ups = EVERYWHERE if pipeline.device.type == "cpu" else ON_GPU
    way = Kinora(pipeline, case, (*speed_ups, *(use_fp8,) * setting.fp8), setting.approximation)
    clip = clip_of(way.engine, case)
    clip = clip.model_copy(
        update={
            "profile": "fast" if setting.approximation else "exact",
            "num_inference_steps": setting.num_inference_steps or clip.num_inference_steps,
        }
    )
    begun = now()
    frames = way.engine.render(picture, clip, Attempt())
    return frames, now() - begun


def quality(frames: Frames, exact: Frames) -> dict[str, float | None]:
    """PSNR in dB, SSIM as the mean over frames, and flicker: the rms of what changes otherwise from one frame to the
    next than in the exact clip, of 255."""
    error = frames.astype(float) - exact
    mean = float((error**2).mean())
    similar = [structural_similarity(*pair, channel_axis=2) for pair in zip(frames, exact, strict=True)]
    return {
        "psnr_db": 10 * float(np.log10(255**2 / mean)) if mean else None,
        "ssim": float(np.mean(similar)),
        "flicker": float(np.sqrt((np.diff(error, axis=0) ** 2).mean())),
    }


SHIPPED = named(SVD_FAST)
SECONDS, WORK = "seconds", "share of the exact denoising, by count at full size"


def draw(rows: list[dict[str, Any]], title: str, path: Path, *, on_gpu: bool) -> None:
    """One point a setting: how near the exact clip, against its seconds and against its share of the work. Without a
    GPU eight bits are left out, which a CPU imitates in more time. Writes an SVG."""
    mpl.rcParams["svg.hashsalt"] = "kinora"
    figure = Figure(figsize=(12, 5.5), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    points = [row for row in rows if row["psnr_db"] is not None and (on_gpu or "fp8" not in row["setting"])]
    key = [f"{number}  {row['setting']}" for number, row in enumerate(points, 1)]
    for axes, measured, label in zip(panels, ("seconds", "work"), (SECONDS, WORK), strict=True):
        for number, row in enumerate(points, 1):
            ships = row["setting"] == SHIPPED.name
            axes.scatter(row[measured], row["psnr_db"], color="#d4573b" if ships else "#3b6fd4", s=22, zorder=3)
            axes.annotate(f"{number}", (row[measured], row["psnr_db"]), (4, 3), textcoords="offset points", fontsize=8)
        axes.axvline(rows[0][measured], color="#9aa5b1", linewidth=1, label="exact")
        axes.axhline(GOOD_DB, color="#9aa5b1", linestyle="--", linewidth=1)
        axes.set_xlim(left=0)
        axes.set_xlabel(label)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("PSNR against the exact clip, dB")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    named_by = "\n".join([*key, "", "red: profile=fast", "upright line: exact", "dashes: 30 dB"])
    figure.text(1.0, 0.5, named_by, fontsize=8, va="center")
    figure.patch.set_facecolor("white")
    figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")
