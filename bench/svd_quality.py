"""What each way to do less work costs, beside the exact clip from the same seed: `scripts/bench svd --quality`."""

import sys
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from skimage.metrics import structural_similarity

from bench.flops import share_of_shallow
from bench.random_svd import FULL_CASE, Case
from bench.svd_ways import Kinora, clip_of, now
from core.engines import SVD_FAST, Approximation
from worker.attempt import Attempt
from worker.svd.fp8 import use_fp8
from worker.svd.speedups import EVERYWHERE, ON_GPU

Frames = NDArray[np.uint8]

GOOD_DB = 30.0


@dataclass(frozen=True)
class Setting:
    name: str
    approximation: Approximation | None = None
    num_inference_steps: int | None = None
    fp8: bool = False


def settings(steps: int) -> list[Setting]:
    """Each lever alone, fewer steps for comparison, and mixes."""
    exact = [Setting("exact"), Setting("exact, fp8", fp8=True)]
    fewer = [Setting(f"{count} steps", num_inference_steps=count) for count in (steps * 4 // 5, steps // 2)]
    cached = [(2, 1), (2, 2), (2, 3), (3, 1), (3, 2), (4, 1), (5, 1)]
    alone = [named(Approximation(every, layers, 1.0)) for every, layers in cached]
    alone += [named(Approximation(1, 1, part)) for part in (0.9, 0.8, 0.6, 0.4)]
    mixes = [named(Approximation(every, 1, part)) for every, part in product((2, 3, 4), (0.8, 0.6))]
    return [*exact, *fewer, *alone, *mixes, named(SVD_FAST, fp8=True)]


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


def measure(pipeline: Any, picture: Image.Image, case: Case) -> list[dict[str, Any]]:
    """A row for each setting, the exact one first. Not compiled: that would take minutes for each."""
    rows: list[dict[str, Any]] = []
    shallow = {layers: share_of_shallow(FULL_CASE, layers) for layers in (1, 2, 3)}
    exact = None
    for setting in settings(case.num_inference_steps):
        frames, seconds = render(pipeline, picture, case, setting)
        exact = frames if exact is None else exact
        share = work(setting, case.num_inference_steps, shallow)
        rows.append({"setting": setting.name, "seconds": seconds, "work": share} | quality(frames, exact))
        print(rows[-1], file=sys.stderr)
    for each in rows:
        each["× exact"] = rows[0]["seconds"] / each["seconds"]
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


def draw(rows: list[dict[str, Any]], title: str, path: Path) -> None:
    """One point a setting: how near the exact clip, against the share of its work. Writes an SVG."""
    mpl.rcParams["svg.hashsalt"] = "kinora"
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    points = [row for row in rows if row["psnr_db"] is not None]
    for row in points:
        ships = row["setting"] == SHIPPED.name
        axes.scatter(row["work"], row["psnr_db"], color="#d4573b" if ships else "#3b6fd4", zorder=3)
        label = f"{row['setting']}{' (profile=fast)' if ships else ''}"
        axes.annotate(label, (row["work"], row["psnr_db"]), (5, 3), textcoords="offset points", fontsize=8)
    axes.axhline(GOOD_DB, color="#9aa5b1", linestyle="--", linewidth=1)
    axes.set_xlim(0, 1.3)
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel("share of the exact clip's denoising, by count at full size")
    axes.set_ylabel("PSNR against the exact clip, dB")
    axes.spines[["top", "right"]].set_visible(False)
    figure.patch.set_facecolor("white")
    figure.savefig(path, metadata={"Date": None})
