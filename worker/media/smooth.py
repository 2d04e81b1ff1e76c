"""Frames in between those that there are, worked out on the CPU from the motion between them: optical flow in both
directions, by OpenCV's DIS (Kroeger and others, "Fast Optical Flow using Dense Inverse Search", 2016). worker/engines/
rife/ draws them otherwise, and has the rest from here.

Frames are as worker/media/yuv.py has them. Few are in memory at a time, however many there are.
"""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from itertools import chain, pairwise
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from worker.media.yuv import size_of

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Pair = tuple[NDArray[Any], NDArray[Any]]
"""The same of the first frame and of the second."""

# Motion is looked for in pictures that are reduced to this by a whole number: 1280×720 whole took three times as long,
# for 0.1 dB more.
LONGEST_SIDE = 640

# Pixels of a reduced picture. Where the way there and back ends farther from its beginning, what is seen in one frame
# is hidden in the other, or was found wrongly.
ASTRAY = 1.5

# Frames of which more than this is astray show two scenes: 98 % was at the cuts of a film, 68 % at most elsewhere.
CUT = 0.85


def receipt() -> dict[str, Any]:
    """How frames are made here, for whoever wants the same again."""
    return {"method": "optical flow (DIS)", "libraries": versions()}


def versions() -> dict[str, str]:
    return {"opencv": cv2.__version__, "numpy": np.__version__, "av": av.__version__}


def smoothed(
    frames: Iterable[Bytes], fps: int, smooth_fps: int, find_motion: "FindMotion | None" = None
) -> Generator[Bytes]:
    """`frames`, `fps` of them a second, as `smooth_fps` a second: the one at each multiple of 1 / smooth_fps seconds,
    up to the last. Where there is one at that very moment, it is that one itself.

    The others are drawn by what `find_motion` makes of two frames, and may then be sRGB; None: by `Motion`."""
    cv2.setNumThreads(1)  # the threads are ours, one for each pair: how many there are changes nothing in the frames
    threads = min(8, os.cpu_count() or 1)
    pool, waiting = ThreadPoolExecutor(threads, "smooth"), deque[Future[list[Bytes]]]()
    try:
        for index, (first, second) in enumerate(pairwise(chain(frames, [None]))):
            waiting.append(pool.submit(between, first, second, moments(index, fps, smooth_fps), find_motion))
            if len(waiting) > threads:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def moments(index: int, fps: int, smooth_fps: int) -> list[float]:
    """When a frame is due from the frame `index` of `fps` a second (0) on, and before the next one (1)."""
    begin, end = (-(-place * smooth_fps // fps) for place in (index, index + 1))
    return [(place * fps - index * smooth_fps) / smooth_fps for place in range(begin, end)]


def between(
    first: Bytes | None, second: Bytes | None, moments: list[float], find_motion: "FindMotion | None" = None
) -> list[Bytes]:
    """The frames at these moments. Without a second one there is only the first, at moment 0."""
    assert first is not None  # noqa: S101 - None is only ever behind the last frame
    if second is None:
        return [first for moment in moments if moment == 0]
    motion = (find_motion or Motion)(first, second)
    return [first if moment == 0 else motion.frame(moment) for moment in moments]


class Motion:
    """Between two frames: where what is in the one has gone in the other, and back; at the size of `reduced` pictures,
    in their pixels."""

    def __init__(self, first: Bytes, second: Bytes) -> None:
        self.frames = first, second
        one, other = self.pictures = reduced(luma(first)), reduced(luma(second))
        self.forward, self.backward = flow_of(one, other), flow_of(other, one)
        lost, found = astray(self.forward, self.backward), astray(self.backward, self.forward)
        self.is_cut = min((lost > ASTRAY).mean(), (found > ASTRAY).mean()) > CUT

    def frame(self, moment: float) -> Bytes:
        if self.is_cut:  # nothing lies in between
            return self.frames[moment >= 0.5]
        return self.drawn(moment)

    def drawn(self, moment: float) -> Bytes:
        flow = self.at(moment)
        y, uv = (mixed(pair, flow, moment) for pair in zip(*map(planes, self.frames), strict=True))
        return np.concatenate([y, *cv2.split(uv)], axis=None).reshape(self.frames[0].shape)

    def at(self, moment: float) -> Floats:
        """How that moves from the first frame to the second which is at each place at `moment`. Each direction has an
        answer; the better one is that by which both frames look the same there."""
        answers = carried(self.forward, moment), -carried(self.backward, 1 - moment)
        cost, other_cost = (self.difference(flow, moment) for flow in answers)
        return as_floats(cv2.blendLinear(*answers, other_cost, cost))

    def difference(self, flow: Floats, moment: float) -> Floats:
        apart = cv2.absdiff(*both(self.pictures, flow, moment)).astype(np.float32)
        return np.asarray((cv2.blur(apart, (5, 5)) + 2) ** 4, np.float32)


FindMotion = Callable[[Bytes, Bytes], Motion]


def luma(frame: Bytes) -> Bytes:
    return frame[: size_of(frame)[1]]


def planes(frame: Bytes) -> tuple[Bytes, NDArray[Any]]:
    """Y, and U and V together: (height / 2, width / 2, 2)."""
    width, height = size_of(frame)
    return luma(frame), cv2.merge(list(frame[height:].reshape(2, height // 2, width // 2)))


def reduced(plane: Bytes) -> NDArray[Any]:
    by = -(-max(plane.shape) // LONGEST_SIDE)
    size = round(plane.shape[1] / by), round(plane.shape[0] / by)
    return cv2.resize(plane, size, interpolation=cv2.INTER_AREA)


def flow_of(one: NDArray[Any], other: NDArray[Any]) -> Floats:
    """Where each pixel of `one` is in `other`, from its place, (height, width, 2)."""
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return np.asarray(search.calc(one, other, None), np.float32)  # type: ignore[call-overload]  # no flow to begin with


def mixed(pair: Pair, flow: Floats, moment: float) -> NDArray[Any]:
    """The plane at `moment`, of its own size: both frames count by their nearness alone. To leave out the one that
    seems to hide a place came no nearer to the truth: the same PSNR, and 0.002 less SSIM."""
    height, width = pair[0].shape[:2]
    to_its_pixels = np.diag([width / flow.shape[1], height / flow.shape[0]])
    flow = as_floats(cv2.resize(cv2.transform(flow, to_its_pixels), (width, height)))
    one, other = both(pair, flow, moment, cv2.INTER_CUBIC)
    return cv2.addWeighted(one, 1 - moment, other, moment, 0)


def both(pair: Pair, flow: Floats, moment: float, how: int = cv2.INTER_LINEAR) -> Pair:
    """What each of the two has of that which is at each place at `moment`."""
    return sampled(pair[0], flow, -moment, how), sampled(pair[1], flow, 1 - moment, how)


def sampled(picture: NDArray[Any], flow: Floats, time: float, how: int = cv2.INTER_LINEAR) -> NDArray[Any]:
    """What is in `picture` where `flow` leads in `time`, from each place."""
    where = cv2.scaleAdd(flow, time, places(*flow.shape[:2]))
    # None: an empty array, which the stubs ask for, gives garbage (OpenCV 5.0.0).
    found = cv2.remap(picture, where, None, how, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]  # as said above
    return np.asarray(found)


def carried(flow: Floats, time: float) -> Floats:
    """The flow of what has come to each place in `time`, in the place of what began there."""
    return as_floats(sampled(flow, flow, -time))


def astray(flow: Floats, back: Floats) -> Floats:
    """How far from each place the way there and back ends."""
    return as_floats(cv2.magnitude(*cv2.split(flow + sampled(back, flow, 1))))


@lru_cache(maxsize=8)
def places(height: int, width: int) -> Floats:
    """x and y of each pixel, (height, width, 2)."""
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(np.float32)


def as_floats(found: NDArray[Any]) -> Floats:
    return found.astype(np.float32, copy=False)
