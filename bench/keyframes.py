"""How far apart key frames stand: what that costs in bytes, how long a seek takes, and what changes at a key frame.

    scripts/bench keyframes [--seeks 30]

Clips of the preview engine, and a film that is joined of three of them and goes on, each at several distances. Evenness
is what changes from one decoded frame to the next, mean of the brightness, over what changes in the frames that were
rendered: 1 is as it should be. Seeks go to the same random frames at each distance: PyAV in a process that runs, ffmpeg
as a process of its own; a seek is wrong if it shows another picture than the video has there. Two other ways are held
against ours: x264's own `keyint`, and open GOPs.
"""

import argparse
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench import rivals
from bench.preview import large_picture
from core.config.settings import Settings
from core.engines.known import find_engine
from core.requests.clip import ClipRequest
from core.requests.resolve import resolve
from harness.pictures import SAMPLES
from harness.report import RESULTS, machine, print_table, spread, write
from worker.attempt import Attempt
from worker.engines.camera import Camera
from worker.media import mp4
from worker.media.mp4 import encode_mp4
from worker.media.video import join_mp4, last_frame, rate_of, stored_frames

Frames = NDArray[np.uint8]

FPS, CRF, COUNT = 30, 18, 300
DISTANCES = (15, 30, 60, 100, 300)
FILM_COUNT = 100
MOTIONS = ("zoom_out", "pan_right", "orbit", "zoom_out")
"""Of a film's clips; the last one goes on from the third."""


def rendered(picture: Image.Image, motion: str, count: int, goes_on: bool = False) -> Frames:
    settings = Settings(_env_file=None)
    engine = find_engine("preview", settings)
    clip, _ = resolve(ClipRequest(num_frames=count, motion=motion, fps=FPS), engine, settings)
    return Camera(engine, settings).render(
        picture, clip.model_copy(update={"goes_on": goes_on}), Attempt(Camera.phases)
    )


# The ways


@contextmanager
def ours(distance: int) -> Iterator[None]:
    with patch.object(mp4, "KEY_FRAMES_APART", distance):
        yield


@contextmanager
def x264s(distance: int, more: str = "") -> Iterator[None]:
    params = mp4.X264["x264-params"] + f":keyint={distance}{more}"
    with ours(COUNT), patch.dict(mp4.X264, {"x264-params": params}):
        yield


WAYS: dict[str, Callable[[int], Any]] = {
    "every": ours,
    "keyint": x264s,
    "open GOP": lambda distance: x264s(distance, ":open-gop=1"),
}


# What is measured


def figures(video: Path, truth: Frames, seeks: int) -> dict[str, float | None]:
    stored = np.stack(list(stored_frames(video)))
    height = truth.shape[1] * 2 // 3
    off = [
        ((seen[:height].astype(np.float32) - own[:height]) ** 2).mean() for seen, own in zip(stored, truth, strict=True)
    ]
    ratio = np.divide(changes(stored), np.maximum(changes(truth), 0.1))
    keys = [index for index in key_frames(video) if index]
    at_keys, elsewhere = ratio[[index - 1 for index in keys]], np.delete(ratio, [index - 1 for index in keys])
    return {
        "kB": video.stat().st_size / 1000,
        "psnr_db": float(10 * np.log10(255**2 / np.mean(off))),
        "key_frames": len(keys) + 1,
        "at_keys": float(np.median(at_keys)) if keys else None,
        "at_keys_most": float(at_keys.max()) if keys else None,
        "elsewhere_most": float(elsewhere.max()),
        **seek_figures(video, stored, seeks),
    }


def changes(frames: Frames) -> NDArray[np.float64]:
    height = frames.shape[1] * 2 // 3
    return np.array([np.abs(b[:height].astype(np.int16) - a[:height]).mean() for a, b in pairwise(frames)])


def key_frames(video: Path) -> list[int]:
    with av.open(str(video)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.pts is not None]
    packets.sort(key=lambda packet: packet.pts or 0)
    return [index for index, packet in enumerate(packets) if packet.is_keyframe]


def seek_figures(video: Path, stored: Frames, seeks: int) -> dict[str, float]:
    """Times are in milliseconds."""
    places = np.random.default_rng(0).integers(0, len(stored), seeks).tolist()
    with av.open(str(video)) as container:
        sought = [timed(partial(seek, container, place)) for place in places]
    wrong = sum(
        not np.array_equal(frame.to_ndarray(), stored[at]) for (_, frame), at in zip(sought, places, strict=True)
    )
    found = spread([took for took, _ in sought])
    ffmpeg = median(timed(partial(seek_by_ffmpeg, video, place))[0] for place in places)
    return {"pyav_ms": found["p50"], "pyav_ms_p95": found["p95"], "ffmpeg_ms": ffmpeg, "wrong": wrong}


def timed(do: Callable[[], Any]) -> tuple[float, Any]:
    """How long it took, and what it gave."""
    begun = time.perf_counter()
    given = do()
    return 1000 * (time.perf_counter() - begun), given


def seek(container: av.container.InputContainer, place: int) -> av.VideoFrame:
    stream = container.streams.video[0]
    at = round(place / rate_of(stream) / (stream.time_base or 1))
    container.seek(at, stream=stream)
    return next(frame for frame in container.decode(stream) if (frame.pts or 0) >= at)


def seek_by_ffmpeg(video: Path, place: int) -> None:
    given = [str(rivals.ffmpeg()), "-v", "quiet", "-ss", f"{place / FPS:.4f}", "-i", str(video)]
    subprocess.run([*given, "-frames:v", "1", "-f", "null", "-"], check=True)


# What is made


def clip_rows(name: str, truth: Frames, folder: Path, seeks: int) -> list[dict[str, Any]]:
    video, rows = folder / "clip.mp4", []
    for way, encoding in WAYS.items():
        for distance in DISTANCES if way == "every" else (DISTANCES[2],):
            with encoding(distance):
                encode_mp4(truth, FPS, CRF, video)
            rows.append({name: f"{way} {distance}"} | figures(video, truth, seeks))
    return rows


def film_rows(pictures: list[Image.Image], folder: Path, seeks: int) -> list[dict[str, Any]]:
    """Of three clips that are joined, and a fourth that goes on from the last of their frames."""
    clips = [rendered(*each, FILM_COUNT) for each in zip(pictures, MOTIONS, strict=False)]
    rows = []
    for distance in DISTANCES:
        with ours(distance):
            parts = [folder / f"{number}.mp4" for number in range(4)]
            for part, clip in zip(parts, clips, strict=False):
                encode_mp4(clip, FPS, CRF, part)
            more = rendered(Image.fromarray(last_frame(parts[2])), MOTIONS[3], FILM_COUNT, goes_on=True)[1:]
            encode_mp4(more, FPS, CRF, parts[3])
            joined, film = folder / "joined.mp4", folder / "film.mp4"
            join_mp4(parts[:3], joined, CRF, lambda: None)
            _, anew = join_mp4([joined, parts[3]], film, CRF, lambda: None)
        truth = np.concatenate([*clips, more])
        found = figures(film, truth, seeks)
        rows.append({"film": f"every {distance}", "encoded_anew": anew} | found)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeks", type=int, default=30, help="of which the median counts (%(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the figures (%(default)s)")
    given = parser.parse_args()
    rivals.install()
    tables = []
    with tempfile.TemporaryDirectory(prefix="kinora-bench-") as name:
        folder = Path(name)
        large_picture(folder / "large.jpg")
        sources = [SAMPLES / "coffee.jpg", SAMPLES / "cat.jpg", folder / "large.jpg"]
        pictures = [Image.open(source).convert("RGB") for source in sources]
        for source, picture, motion in zip(sources, pictures, ("zoom_in", "orbit", "pan_right"), strict=True):
            tables.append(clip_rows(f"{source.stem}, {motion}", rendered(picture, motion, COUNT), folder, given.seeks))
        tables.append(film_rows(pictures, folder, given.seeks))
    for rows in tables:
        print()
        print_table(rows)
    results = {
        "machine": machine("av", "numpy", "pillow"),
        "setting": {"fps": FPS, "crf": CRF, "frames": COUNT, "film_frames": 4 * FILM_COUNT - 1, "seeks": given.seeks},
        "rivals": {"ffmpeg": rivals.ffmpeg_version()},
        "figures": tables,
    }
    print(f"\nwritten to {write('keyframes', results, given.out)}")


if __name__ == "__main__":
    main()
