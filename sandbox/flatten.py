"""A stored picture → RGB in sRGB, opaque, upright, and no larger than any clip needs; strip by strip."""

import math
from typing import NamedTuple

from PIL import Image

from sandbox.memory import PIXEL_BYTES, free_bytes, too_much_memory
from sandbox.opaque import colours_to_srgb, opaque
from sandbox.sizes import SHORT_SIDE
from sandbox.stored import Stored

STRIP_PIXELS = 1 << 18
"""Treated at once, so that only the decoder's own buffer and the result are large; fewer cost more for each strip."""

LEAST_SHORT_SIDE = 1080
"""Pixels, to which a picture is reduced that would not fit memory otherwise."""

SIDEWAYS = (
    Image.Transpose.TRANSPOSE,
    Image.Transpose.ROTATE_90,
    Image.Transpose.ROTATE_270,
    Image.Transpose.TRANSVERSE,
)
FROM_THE_END = (
    Image.Transpose.ROTATE_180,
    Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.ROTATE_270,
    Image.Transpose.TRANSVERSE,
)
"""Of which the first row becomes the last row or column."""


class Scale(NamedTuple):
    """From the stored size to that of the result, before it is turned."""

    width: int
    height: int
    stored_rows: float
    """For each row of the result."""


def flatten(stored: Stored, data: bytes) -> Image.Image:
    """Return a picture without metadata. The upload is asked for its length only."""
    scale = scale_for(stored, data)
    in_place = stored.picture.mode == "RGB" and stored.low is None and stored.turn is None and scale.stored_rows == 1
    if in_place and not stored.colours and not stored.clear:
        return stored.picture
    flat = stored.picture if in_place else Image.new("RGB", turned_size(scale, stored.turn))
    to_srgb = colours_to_srgb(stored)
    for top, bottom in strips(scale, stored):
        first, last = top * scale.stored_rows, min(bottom * scale.stored_rows, stored.picture.height)
        rows = opaque(stored, math.floor(first), math.ceil(last), to_srgb)
        if scale.stored_rows != 1:
            box = (0, first - math.floor(first), rows.width, last - math.floor(first))
            rows = rows.resize((scale.width, bottom - top), Image.Resampling.BOX, box)
        flat.paste(*placed(rows, top, bottom, scale.height, stored.turn))
    return flat


def scale_for(stored: Stored, data: bytes) -> Scale:
    """Return how large the result may be: the shorter side is SHORT_SIDE at most, and it must fit memory beside the
    stored picture if it cannot take its place. Raises ImageTooLarge if it would have to be very small for that."""
    width, height = stored.picture.size
    factor = min(1, SHORT_SIDE / min(width, height))
    if stored.picture.mode != "RGB" or stored.turn is not None or factor < 1:
        free = free_bytes(data, [each for each in (stored.picture, stored.low) if each])
        factor = min(factor, math.sqrt(max(free, 0) / (PIXEL_BYTES * width * height)))
        if factor * min(width, height) < min(LEAST_SHORT_SIDE, width, height):
            raise too_much_memory()
    if factor == 1:
        return Scale(width, height, 1)
    scaled = max(1, int(height * factor + 1e-6))
    return Scale(max(1, int(width * factor + 1e-6)), scaled, height / scaled)


def strips(scale: Scale, stored: Stored) -> list[tuple[int, int]]:
    """Return the first row of each strip of the result, and the first that is no longer in it."""
    rows = max(1, int(STRIP_PIXELS / (stored.picture.width * scale.stored_rows)))
    return [(top, min(top + rows, scale.height)) for top in range(0, scale.height, rows)]


def turned_size(scale: Scale, turn: Image.Transpose | None) -> tuple[int, int]:
    return (scale.height, scale.width) if turn in SIDEWAYS else (scale.width, scale.height)


def placed(
    rows: Image.Image, top: int, bottom: int, height: int, turn: Image.Transpose | None
) -> tuple[Image.Image, tuple[int, int]]:
    """Return the rows turned, and where they are in the upright picture."""
    if turn is None:
        return rows, (0, top)
    at = height - bottom if turn in FROM_THE_END else top
    return rows.transpose(turn), (at, 0) if turn in SIDEWAYS else (0, at)
