"""A still as a moving clip with MoviePy, as its documentation writes it. Run by bench/rivals.py with MoviePy's Python.

python bench/moviepy_zoom.py PICTURE VIDEO MOTION FRAMES CLIPS [PRESET CRF]
"""

import json
import math
import sys
import time
from collections.abc import Callable

import numpy as np
from PIL import Image

begun = time.perf_counter()
from moviepy import CompositeVideoClip, ImageClip, VideoClip

SECONDS = [time.perf_counter() - begun]
SIZE, FPS = (1024, 576), 25


def make(picture: np.ndarray, video: str, motion: str, frames: int, x264: list[str]) -> None:
    def eased(t: float) -> float:
        part = t * FPS / (frames - 1)
        return part * part * (3 - 2 * part)

    still = ImageClip(picture).with_duration(frames / FPS)
    clip = MOTIONS[motion](still, max(SIZE[0] / still.w, SIZE[1] / still.h), eased)
    given = {"preset": x264[0], "ffmpeg_params": ["-crf", x264[1]]} if x264 else {}
    clip.write_videofile(video, fps=FPS, logger=None, **given)


def zoom_in(still: ImageClip, scale: float, eased: Callable[[float], float]) -> VideoClip:
    """As its documentation shows it."""
    moving = still.resized(scale).resized(lambda t: 1.25 ** eased(t))
    return CompositeVideoClip([moving.with_position("center")], size=SIZE)


def zoom_in_cut(still: ImageClip, scale: float, eased: Callable[[float], float]) -> VideoClip:
    """As its users share it against the trembling (its issue 1402): enlarged, cut to even sides, resized again."""

    def cut(get_frame: Callable[[float], np.ndarray], t: float) -> np.ndarray:
        picture = Image.fromarray(get_frame(t))
        width, height = (side + side % 2 for side in (math.ceil(side * 1.25 ** eased(t)) for side in SIZE))
        left, top = math.ceil((width - SIZE[0]) / 2), math.ceil((height - SIZE[1]) / 2)
        picture = picture.resize((width, height), LANCZOS).crop((left, top, width - left, height - top))
        return np.asarray(picture.resize(SIZE, LANCZOS))

    fitted = still.resized(scale).cropped(
        x_center=still.w * scale / 2, y_center=still.h * scale / 2, width=SIZE[0], height=SIZE[1]
    )
    return fitted.transform(cut)


def pan_right(still: ImageClip, scale: float, eased: Callable[[float], float]) -> VideoClip:
    large = still.resized(1.2 * scale)
    top = (SIZE[1] - large.h) / 2
    return CompositeVideoClip([large.with_position(lambda t: ((SIZE[0] - large.w) * eased(t), top))], size=SIZE)


MOTIONS = {"zoom_in": zoom_in, "zoom_in_cut": zoom_in_cut, "pan_right": pan_right}
LANCZOS = Image.Resampling.LANCZOS


def main() -> None:
    path, video, motion, frames, clips, *x264 = sys.argv[1:]
    picture = np.asarray(Image.open(path).convert("RGB"))
    for _ in range(int(clips)):
        begun = time.perf_counter()
        make(picture, video, motion, int(frames), x264)
        SECONDS.append(time.perf_counter() - begun)
    print(json.dumps(SECONDS))


main()
