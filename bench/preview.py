"""The preview engine against what a user would take instead, and our finalize stage against diffusers' export_to_video.

    scripts/bench preview [--runs 3]

From one picture to an MP4 of 25 frames of 1024×576, the same motion, x264's crf 18 and veryfast for all: ours,
ffmpeg's zoompan (as it is, and with the picture enlarged 8 × first), MoviePy. Cold is a whole process, warm one clip
more in a process that has made one; core is the processor time of that clip. The tools take turns, and medians count.
Smoothness: soft dots are found again in the decoded MP4 (crf 4, or the codec hides what the camera does) and compared
with where the path, the same for all, says that they are.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import av
import numpy as np
from av.video.reformatter import Colorspace
from numpy.typing import NDArray
from PIL import Image

from bench import rivals
from core.config.settings import Settings
from core.engines.known import find_engine
from core.requests.clip import Clip, ClipRequest
from core.requests.resolve import resolve
from harness.report import RESULTS, machine, print_table, write
from worker.attempt import Attempt
from worker.engines.camera import Camera, camera_path
from worker.media.mp4 import encode_mp4, first_frame_jpeg, spritesheet_jpeg, tile_indices
from worker.media.yuv import AS_SHOWN, as_rgb

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "samples" / "coffee.jpg"
FRAME, FRAMES, FPS, CRF, PRESET = (1024, 576), 25, 25, 18, "veryfast"
LARGE, DOTS_SIZE = (4000, 2250), (1920, 1080)
SMOOTH_CRF = 4
WARM = 3  # clips after the first, in one process

Floats = NDArray[np.float64]
Command = Callable[..., list[str]]
"""What makes a clip of: picture, video, motion, number of clips, crf. Prints seconds of its import and of each clip."""


# Ours, and the others


def kinora(picture: Path, video: Path, motion: str, clips: int, crf: int = CRF) -> list[str]:
    return [sys.executable, "-m", "bench.preview", "--make", motion, str(picture), str(video), str(clips), str(crf)]


def zoompan(enlarged: int, picture: Path, video: Path, motion: str, _clips: int, crf: int = CRF) -> list[str]:
    return rivals.zoompan(picture, video, motion, FRAMES, enlarged, ["-preset", PRESET, "-crf", str(crf)])


def moviepy(recipe: str, picture: Path, video: Path, motion: str, clips: int, crf: int = CRF) -> list[str]:
    return rivals.moviepy(picture, video, motion + recipe, FRAMES, clips, [PRESET, str(crf)])


def tools(motion: str) -> dict[str, Command]:
    found: dict[str, Command] = {
        "Kinora": kinora,
        "zoompan": partial(zoompan, 1),
        "zoompan, enlarged 8×": partial(zoompan, 8),
        "MoviePy, resized": partial(moviepy, ""),
    }
    if motion == "zoom_in":
        found["MoviePy, cut by hand"] = partial(moviepy, "_cut")
    return found


def engine() -> Camera:
    settings = Settings(_env_file=None)
    return Camera(find_engine("preview", settings), settings)


def wanted(motion: str) -> Clip:
    settings = Settings(_env_file=None)
    fields = {"width": FRAME[0], "height": FRAME[1], "num_frames": FRAMES, "fps": FPS, "quality": CRF, "motion": motion}
    return resolve(ClipRequest.model_validate(fields), find_engine("preview", settings), settings)[0]


def make(motion: str, path: str, video: str, clips: str, crf: str) -> None:
    """What a worker does between the decoded picture and the MP4."""
    renderer, clip = engine(), wanted(motion)
    picture = Image.open(path).convert("RGB")
    seconds: list[float | None] = [None]
    for _ in range(int(clips)):
        begun = time.perf_counter()
        encode_mp4(renderer.render(picture, clip, Attempt(Camera.phases)), FPS, int(crf), Path(video))
        seconds.append(time.perf_counter() - begun)
    print(json.dumps(seconds))


# Time and memory


# Started by a process that is small: a child's peak begins at what its parent holds.
LAUNCH = """
import json, os, sys, time
begun = time.perf_counter()
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(child, 0)
seconds = time.perf_counter() - begun
print(json.dumps([seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024]))
sys.exit(os.waitstatus_to_exitcode(status))
"""


def run(command: list[str]) -> tuple[dict[str, float], list[float]]:
    """Figures of the whole process with what it started, and what it printed. Memory is its largest process's."""
    launch = [sys.executable, "-S", "-c", LAUNCH, *command]
    *printed, last = subprocess.run(launch, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    return dict(zip(("cold", "core", "mib"), json.loads(last), strict=True)), json.loads(printed[0]) if printed else []


def times(picture: Path, motion: str, runs: int, folder: Path) -> list[dict[str, Any]]:
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in tools(motion)}
    video = folder / "video.mp4"
    for _ in range(runs):
        for name, command in tools(motion).items():
            figures, printed = run(command(picture, video, motion, 1))
            found[name].append(figures | {"kB": video.stat().st_size / 1000})
            if printed:
                more, (imported, _, *warm) = run(command(picture, video, motion, 1 + WARM))
                figures = {"import": imported, "warm": median(warm), "core": (more["core"] - figures["core"]) / WARM}
                found[name][-1] |= figures
    return [{"motion": motion, "tool": name} | medians(figures) for name, figures in found.items()]


def medians(rounds: list[dict[str, Any]]) -> dict[str, float | None]:
    names = ("warm", "cold", "import", "core", "mib", "kB")
    return {name: None if rounds[0].get(name) is None else median(one[name] for one in rounds) for name in names}


# Smoothness

POINTS = np.stack(np.meshgrid([0.35, 0.42, 0.5, 0.58, 0.65], [0.35, 0.5, 0.65]), axis=-1).reshape(-1, 2) * DOTS_SIZE
RADIUS, WINDOW = 4.0, 18.0  # pixels of a frame


def dotted(size: tuple[int, int], points: Floats, radius: float) -> Image.Image:
    """Soft dots; a pixel's middle lies at its index + 0.5."""
    x, y = np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5
    across, down = (np.exp(-(((axis - points[:, [i]]) / radius) ** 2) / 2) for i, axis in enumerate((x, y)))
    return Image.fromarray((20 + 200 * (down.T @ across)).round().clip(0, 255).astype(np.uint8)).convert("RGB")


def expected(motion: str) -> Floats:
    """(frames, points, 2): where the path shows each dot."""
    path = camera_path(motion, FRAMES, DOTS_SIZE, FRAME)[:, np.newaxis]
    seen: Floats = (POINTS - path[..., :2]) / (path[..., 2:] - path[..., :2]) * FRAME
    return seen


def found(video: Path, near: Floats) -> Floats:
    """Where each dot is: the middle of its light, in the decoded brightness."""
    places = []
    with av.open(str(video)) as container:
        for frame, points in zip(container.decode(video=0), near, strict=True):
            light = frame.to_ndarray(format="gray").astype(float)
            places.append([middle(light, point) for point in points])
    return np.array(places)


def middle(light: Floats, near: Floats) -> Floats:
    left, top = (near - WINDOW).astype(int)
    part = light[top : top + 2 * int(WINDOW) + 1, left : left + 2 * int(WINDOW) + 1]
    part = (part - np.median(part)).clip(8, None) - 8  # no weight for the ground, nor for what the codec leaves there
    y, x = np.mgrid[0 : part.shape[0], 0 : part.shape[1]] + 0.5
    return np.array([left + (part * x).sum() / part.sum(), top + (part * y).sum() / part.sum()])


def deviation(video: Path, motion: str) -> dict[str, float]:
    """Pixels. Jitter is what deviates from one frame to the next but one: an even drift or a shift has none."""
    off = found(video, expected(motion)) - expected(motion)
    return {
        "rms_px": float(np.sqrt((off**2).sum(axis=-1).mean())),
        "max_px": float(np.hypot(*off.T).max()),
        "jitter_px": float(np.sqrt((np.diff(off, 2, axis=0) ** 2).sum(axis=-1).mean())),
    }


def smoothness(motion: str, folder: Path) -> list[dict[str, Any]]:
    picture, video = folder / "dots.png", folder / "dots.mp4"
    path = camera_path(motion, FRAMES, DOTS_SIZE, FRAME)
    scale = FRAME[0] / (path[:, 2] - path[:, 0])
    drawn = [
        dotted(FRAME, points, RADIUS * near) for points, near in zip(expected(motion), scale / scale[0], strict=True)
    ]
    encode_mp4(np.stack([np.asarray(frame) for frame in drawn]), FPS, SMOOTH_CRF, video)
    rows = [{"motion": motion, "tool": "(drawn by formula)"} | deviation(video, motion)]
    dotted(DOTS_SIZE, POINTS, RADIUS / scale[0]).save(picture)
    for name, command in tools(motion).items():
        run(command(picture, video, motion, 1, SMOOTH_CRF))
        rows.append({"motion": motion, "tool": name} | deviation(video, motion))
    return rows


# The finalize stage


def finalize(name: str, path: str, video: str, clips: str) -> None:
    """From what the engine gives, or what a pipeline gives, to the files. Prints seconds of each."""
    frames = np.load(path)
    seconds = []
    step = finalizing(name, frames, Path(video))
    for _ in range(int(clips)):
        begun = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - begun)
    print(json.dumps(seconds))


def finalizing(name: str, frames: NDArray[np.uint8], video: Path) -> Callable[[], object]:
    if name == "Kinora":
        return lambda: (
            encode_mp4(frames, FPS, CRF, video),
            first_frame_jpeg(frames),
            spritesheet_jpeg([frames[index] for index in tile_indices(len(frames))]),
        )
    if name == "Kinora, the MP4 alone":
        return lambda: encode_mp4(frames, FPS, CRF, video)
    sys.path.append(str(rivals.site_packages()))  # for imageio; what the service has comes first
    from diffusers.utils import export_to_video

    if name == "export_to_video, float32":
        floats = list((frames / 255).astype(np.float32))
        return lambda: export_to_video(floats, str(video), fps=FPS)
    pictures = [Image.fromarray(frame) for frame in frames]
    return lambda: export_to_video(pictures, str(video), fps=FPS)


FINALIZERS = ("Kinora", "Kinora, the MP4 alone", "export_to_video, float32", "export_to_video, PIL")


def finalize_times(runs: int, folder: Path) -> list[dict[str, Any]]:
    """Warm, of one clip of the photograph."""
    picture = Image.open(PICTURE).convert("RGB")
    frames = np.stack([as_rgb(frame) for frame in engine().render(picture, wanted("zoom_in"), Attempt(Camera.phases))])
    path, video = folder / "frames.npy", folder / "finalize.mp4"
    np.save(path, frames)
    seconds: dict[str, list[float]] = {name: [] for name in FINALIZERS}
    files: dict[str, dict[str, float]] = {}
    for _ in range(runs):
        for name in FINALIZERS:
            command = [sys.executable, "-m", "bench.preview", "--finalize", name, str(path), str(video), str(1 + WARM)]
            _, (_, *warm) = run(command)
            seconds[name].append(median(warm))
            files[name] = {"kB": video.stat().st_size / 1000, "psnr_db": psnr(video, frames)}
    return [{"finalize": name, "seconds": median(seconds[name])} | files[name] for name in FINALIZERS]


def psnr(video: Path, frames: NDArray[np.uint8]) -> float:
    """By whichever matrix suits it better: diffusers' files do not say that theirs is BT.601."""
    return max(psnr_by(matrix, video, frames) for matrix in (Colorspace.ITU709, Colorspace.ITU601))


def psnr_by(matrix: Colorspace, video: Path, frames: NDArray[np.uint8]) -> float:
    off = []
    with av.open(str(video)) as container:
        for frame, given in zip(container.decode(video=0), frames, strict=True):
            shown = frame.reformat(format="rgb24", src_colorspace=matrix, interpolation=AS_SHOWN).to_ndarray()
            off.append(((shown.astype(float) - given) ** 2).mean())
    return float(10 * np.log10(255**2 / np.mean(off)))


def large_picture(path: Path) -> None:
    """Detail at all sizes, as a photograph has it: noise whose strength falls with its frequency."""
    random = np.random.default_rng(0)
    across, down = np.meshgrid(np.fft.rfftfreq(LARGE[0]), np.fft.fftfreq(LARGE[1]))
    falls = np.maximum(np.hypot(across, down), 1 / LARGE[0]) ** -1.5
    planes = [np.fft.irfft2(np.fft.rfft2(random.normal(size=LARGE[::-1])) * falls, LARGE[::-1]) for _ in range(3)]
    pixels = [128 + 45 * plane / plane.std() for plane in planes]
    Image.fromarray(np.stack(pixels, axis=-1).clip(0, 255).astype(np.uint8)).save(path, quality=95)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="turns of which the median counts (%(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the figures (%(default)s)")
    parser.add_argument("--make", nargs=5, help=argparse.SUPPRESS)
    parser.add_argument("--finalize", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.make:
        make(*given.make)
    elif given.finalize:
        finalize(*given.finalize)
    else:
        compare(given.runs, given.out)


def compare(runs: int, out: Path) -> None:
    rivals.install()
    figures: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory(prefix="kinora-bench-") as name:
        folder = Path(name)
        large = folder / "large.jpg"
        large_picture(large)
        pictures = {f"{PICTURE.name}, 600×400": PICTURE, "a large picture, 4000×2250": large}
        for title, picture in pictures.items():
            figures[title] = times(picture, "zoom_in", runs, folder) + times(picture, "pan_right", runs, folder)
        figures["smoothness"] = smoothness("zoom_in", folder) + smoothness("pan_right", folder)
        figures["finalize"] = finalize_times(runs, folder)
    for title, rows in figures.items():
        print(f"\n{title}")
        print_table(rows)
    results = {
        "machine": machine("pillow", "numpy", "av", "diffusers"),
        "setting": {"frames": FRAMES, "size": FRAME, "crf": CRF, "preset": PRESET, "runs": runs},
        "rivals": rivals.VERSIONS | {"ffmpeg": rivals.ffmpeg_version()},
        "figures": figures,
    }
    print(f"\nwritten to {write('preview', results, out)}")


if __name__ == "__main__":
    main()
