"""The `preview` engine: an eased camera over the still, on the CPU. No model, so it runs anywhere at once.

Each frame is cut from the picture with Pillow's resize(box=...), whose box may lie between pixels: it is exact to
1e-3 px, while OpenCV's warpAffine rounds to 1/32 px, which trembles in slow moves.
"""

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ClassVar

import av
import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

from core.requests.clip import ClipSettings
from worker.attempt import Attempt
from worker.engines.base import Frames, Renderer
from worker.media.fit import Size, contained_size, cover_box, resample
from worker.media.webp import small_webp
from worker.media.yuv import planes

Floats = NDArray[np.float64]

CLOSEST = 0.8  # a zoom ends at 4/5 of the widest view, so 1.25 times nearer
PAN_TRAVEL = 0.2  # of the view: what a pan covers at least; the camera comes nearer if the picture spares less
PAN_STEP = 0.025  # of the view: what a pan over a long picture covers a frame on average; faster ones judder
ORBIT_RADIUS = 0.05  # of the widest view
ORBIT_NEAR, ORBIT_FAR = 0.82, 0.88  # of the widest view; far leaves room for the radius on both sides
LEAVES = 0.5  # of the time of a clip that goes on: by then it has left the whole frame for its motion's own path
SHOWN = 8  # of the frames that are there: shown while the others are made
MUCH_LONGER = 1.5  # pictures with a shape so different from the frame's are worth a pan along their length
PANS = {"pan_left": (-1, 0), "pan_right": (1, 0), "pan_up": (0, -1), "pan_down": (0, 1)}

# Pixels of the prepared picture per pixel of a frame, at the camera's closest. At 1.0 the finest detail pulses by 11 %
# as a pan passes whole and half pixels, from 1.25 on by 3 % (white noise; 7 and 1 % with a photo's detail).
DENSITY = 1.25

# Where the prepared picture would have this many pixels for each of the picture's own, the frames are cut from the
# picture itself: it has so little fine detail that nothing pulses, and each frame takes half the time.
ENLARGED = 2.0

EDGE = 1  # pixel of chroma that is looked at beyond the picture's left edge, at most


class Camera(Renderer):
    phases: ClassVar[Mapping[str, float]] = {"render": 1.0}
    share = 0.35

    def load(self) -> None:
        self.device = "cpu"

    def render(self, picture: Image.Image, clip: ClipSettings, attempt: Attempt) -> Frames:
        with attempt.phase("render"):
            stage, path = prepare(picture, clip)
            return shoot(stage, path, clip, attempt)

    def versions(self) -> dict[str, str]:
        return {"pillow": PIL.__version__, "numpy": np.__version__, "av": av.__version__}


def prepare(picture: Image.Image, clip: ClipSettings) -> tuple[Image.Image, Floats]:
    """The part of the picture that the camera will see, at the density it needs, and the path over that part.

    Along an axis on which the camera keeps still, it has the frame's own pixels: each frame is then cut in one pass.
    """
    frame = (clip.width, clip.height)
    if clip.fit == "contain":
        contained = contained_size(picture.size, (2 * clip.width, 2 * clip.height))
        picture = resample(picture, contained, (0, 0, *picture.size))
    shape = frame if clip.fit == "stretch" else picture.size
    contain, goes_on = clip.fit == "contain", bool(clip.goes_on)
    path = camera_path(clip.motion or "auto", clip.num_frames, shape, frame, contain, goes_on)
    path *= np.tile(np.divide(picture.size, shape), 2)
    if contain:
        picture, path = on_a_black_wall(picture, path)

    start, end = path[:, :2].min(axis=0), path[:, 2:].max(axis=0)
    closest = (path[:, 2:] - path[:, :2]).min(axis=0)
    moves = np.ptp(path, axis=0).reshape(2, 2).any(axis=0)
    size = np.ceil((end - start) / closest * frame * np.where(moves, DENSITY, 1))
    own = moves & (size > ENLARGED * (end - start))
    start, end = np.where(own, np.floor(start), start), np.where(own, np.ceil(end), end)
    size = np.where(own, end - start, size).astype(int)
    stage = resample(picture, (int(size[0]), int(size[1])), (*start.tolist(), *end.tolist()))
    return stage, (path - np.tile(start, 2)) * np.tile(size / (end - start), 2)


def on_a_black_wall(picture: Image.Image, path: Floats) -> tuple[Image.Image, Floats]:
    """The picture with as much black around as `path` shows of it, and the path over both."""
    path = path.round(6)  # else a box might end a rounding error beyond what is cut out here
    left, top = np.floor(path[:, :2].min(axis=0)).astype(int).tolist()
    right, bottom = np.ceil(path[:, 2:].max(axis=0)).astype(int).tolist()
    return picture.crop((left, top, right, bottom)), path - (left, top, left, top)


def shoot(stage: Image.Image, path: Floats, clip: ClipSettings, attempt: Attempt) -> Frames:
    """Sample the stage along the path. Pillow works without the GIL, so threads use all cores.

    Each plane by itself: in 4:2:0 there is half as much to sample as in RGB, and nothing to convert afterwards.
    """
    frame = np.array((clip.width, clip.height))
    enlarged = (path[:, 2:] - path[:, :2]).min(axis=0) < frame - 0.5
    # Where the picture is enlarged it has no detail for which Lanczos would be worth its time: bicubic takes two
    # thirds of it, and differs by 45 dB or more.
    how = Image.Resampling.BICUBIC if enlarged.any() else Image.Resampling.LANCZOS
    luma, *chroma = planes(stage)
    size = np.where(enlarged, stage.size, -(-np.array(stage.size) // 2))
    chroma = [at_left_edge(plane, size) for plane in chroma]
    chroma_path = path * np.tile(size / stage.size, 2)
    chroma_path[:, [0, 2]] += EDGE - (chroma_path[:, [2]] - chroma_path[:, [0]]) / clip.width / 2
    frames = np.empty((len(path), clip.height * 3 // 2, clip.width), np.uint8)

    def shoot_one(index: int) -> None:
        y = luma.resize(frame.tolist(), how, box=path[index].tolist())
        u, v = (plane.resize((frame // 2).tolist(), how, box=chroma_path[index].tolist()) for plane in chroma)
        np.concatenate([np.asarray(plane).reshape(-1) for plane in (y, u, v)], out=frames[index].reshape(-1))

    next_shown = SHOWN
    pool = ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1))
    try:
        for done, _ in enumerate(pool.map(shoot_one, range(len(path))), 1):
            if done == next_shown:
                apart = done // SHOWN
                attempt.offer_preview(partial(small_webp, frames[:done:apart], clip.fps / apart))
                next_shown *= 2
            attempt.advance(done, len(path))
    finally:
        pool.shutdown(cancel_futures=True)
    return frames


def at_left_edge(plane: Image.Image, size: NDArray[np.int_]) -> Image.Image:
    """A plane of chroma at `size`, with EDGE more pixels like those at its left edge: a sample lies at the left of its
    pixels, so the first one is taken from half a pixel beside."""
    resized = plane.resize(size.tolist(), Image.Resampling.LANCZOS)
    return Image.fromarray(np.pad(np.asarray(resized), ((0, 0), (EDGE, 0)), "edge"))


def camera_path(
    motion: str, num_frames: int, picture: Size, frame: Size, contain: bool = False, goes_on: bool = False
) -> Floats:
    """What the camera sees in each frame: (n, 4) of left, top, right, bottom in the picture's pixels.

    The boxes have the frame's shape and stay inside the picture; with `contain` the picture stays inside each box.
    Directions are the camera's: in `pan_right` it goes to the right and things move to the left. It starts and stops
    gently, and the last frame is the end of the path. Where a video `goes_on`, the first box is all of the picture,
    which is a frame: it is left within half of the time, and a pan begins in its middle.
    """
    time = np.linspace(0, 1, num_frames)
    whole, view = np.array(picture, float), widest_view(picture, frame, contain)
    room = view * (1 + PAN_TRAVEL) if contain else whole
    motion = "zoom_in" if contain and motion == "auto" else choose(motion, picture, frame)
    eased = (1 + ease(time)) / 2 if goes_on and motion in PANS else ease(time)
    near, offset = move(motion, eased, room, view)
    if contain:  # as far back as it takes to have all of the picture in view all the time
        near *= ((whole + 2 * np.abs(offset)) / (near[:, np.newaxis] * view)).max()
    if goes_on:
        near, offset = from_all(near, offset, time)
    size = near[:, np.newaxis] * view
    corner = (whole - size) / 2 + offset
    if not contain:
        corner = np.maximum(0, corner)  # only against rounding, which Pillow refuses
    return np.hstack([corner, corner + size])


def ease(time: Floats) -> Floats:
    """From 0 to 1 with a gentle start and a gentle end."""
    return time * time * (3 - 2 * time)


def widest_view(picture: Size, frame: Size, contain: bool) -> Floats:
    """The largest size of the frame's shape within the picture; to `contain` it, the smallest around it."""
    if contain:
        return np.multiply(frame, max(picture[0] / frame[0], picture[1] / frame[1]))
    left, top, right, bottom = cover_box(picture, frame)
    return np.array([right - left, bottom - top])


def from_all(near: Floats, offset: Floats, time: Floats) -> tuple[Floats, Floats]:
    """What `move` returns, but that all of the frame is seen at first, and is left gently."""
    left = ease(np.minimum(1, time / LEAVES))
    return 1 + (near - 1) * left, offset * left[:, np.newaxis]


def move(motion: str, eased: Floats, room: Floats, view: Floats) -> tuple[Floats, Floats]:
    """For each moment of `eased`: the part of the widest view that is seen (n,), and how far from the middle (n, 2).
    `room` is what there is to look at."""
    still = np.zeros((len(eased), 2))
    match motion:
        case "zoom_in":
            return CLOSEST**eased, still
        case "zoom_out":
            return CLOSEST ** (1 - eased), still
        case "orbit":
            angle = 2 * np.pi * eased
            near = ORBIT_FAR + (ORBIT_NEAR - ORBIT_FAR) * (1 - np.cos(angle)) / 2
            return near, ORBIT_RADIUS * view * np.column_stack([np.sin(angle), -np.cos(angle)])
        case _:
            return pan(PANS[motion], eased, room, view)


def pan(direction: tuple[int, int], eased: Floats, room: Floats, view: Floats) -> tuple[Floats, Floats]:
    axis = 0 if direction[0] else 1
    near = min(1.0, room[axis] / view[axis] / (1 + PAN_TRAVEL))
    seen = near * view[axis]
    travel = min(room[axis] - seen, seen * max(PAN_TRAVEL, PAN_STEP * len(eased)))
    return np.full(len(eased), near), np.outer(eased - 0.5, direction) * travel


def choose(motion: str, picture: Size, frame: Size) -> str:
    """What `auto` means: along the picture's length if it is much longer than the frame, else nearer."""
    if motion != "auto":
        return motion
    ratio = picture[0] / picture[1] * frame[1] / frame[0]
    if ratio >= MUCH_LONGER:
        return "pan_right"
    return "pan_up" if ratio <= 1 / MUCH_LONGER else "zoom_in"
