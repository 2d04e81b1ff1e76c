"""Where one part of a long clip goes over into the next: colours held, frames blended, the last ones handed on."""

import io
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from core.plan.parts import OVERLAP

Bytes = NDArray[np.uint8]

# How much of the light and of the contrast may be given back in a part: what the first one showed is a measure for
# drift, not for where the camera goes.
LARGEST_SHIFT = 24.0  # of 255
CONTRAST = (0.8, 1.25)
EVERY = 4  # pixels and lines: enough to know a mean by


class Colours(NamedTuple):
    """Mean and standard deviation of red, green and blue over all pixels of a part, 0 to 255."""

    mean: list[float]
    deviation: list[float]


class ContinuityState(NamedTuple):
    """The end of a part, which the next one goes on from."""

    frames: Bytes
    """(OVERLAP, height, width, 3), which both make."""
    colours: Colours
    """Of the first part of all."""


def append_part(
    frames: Bytes, adds: int, before: ContinuityState | None, goes_on: bool
) -> tuple[Bytes, ContinuityState | None]:
    """Return the frames, `adds` of them, that a part adds to the video, and how it ends if it `goes_on`."""
    colours = before.colours if before else colours_of(frames)
    if before:
        frames = match_colours(frames, colours)
        crossfade(frames, before.frames)
    after = ContinuityState(frames[adds:], colours) if goes_on else None
    return frames[:adds], after


def colours_of(frames: Bytes) -> Colours:
    """`frames` (n, height, width, 3)."""
    seen = frames[:, ::EVERY, ::EVERY].reshape(-1, 3).astype(float)
    return Colours(seen.mean(axis=0).tolist(), seen.std(axis=0).tolist())


def match_colours(frames: Bytes, first: Colours) -> Bytes:
    """`frames` with the colours of the first part."""
    mean, deviation = (np.array(values) for values in colours_of(frames))
    gain = np.clip(np.array(first.deviation) / np.maximum(deviation, 1), *CONTRAST)
    shift = np.clip(np.array(first.mean) - mean, -LARGEST_SHIFT, LARGEST_SHIFT)
    levels = (np.arange(256)[:, np.newaxis] - mean) * gain + mean + shift
    table = levels.round().clip(0, 255).astype(np.uint8)
    return np.stack([table[frames[..., channel], channel] for channel in range(3)], axis=-1)


def crossfade(frames: Bytes, before: Bytes) -> None:
    """In place: the first of `frames` fade in over `before`, the last frames of the part before. The very first is
    `before`'s own, which this part went on from."""
    for index, (old, new) in enumerate(zip(before, frames, strict=False)):
        share = index / OVERLAP
        new[...] = ((1 - share) * old + share * new).round()


def as_png(frames: Bytes) -> bytes:
    """One under the other, without loss."""
    file = io.BytesIO()
    Image.fromarray(frames.reshape(-1, *frames.shape[2:])).save(file, "PNG", compress_level=1)
    return file.getvalue()


def from_png(data: bytes) -> Bytes:
    """(OVERLAP, height, width, 3)"""
    with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
        rows = np.asarray(picture.convert("RGB"))
    return rows.reshape(OVERLAP, -1, *rows.shape[1:])
