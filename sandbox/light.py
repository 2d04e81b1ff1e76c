"""Linear light: three bands with a number for each pixel, of which 1 is white. Pillow's own arithmetic: the API server
has no numpy."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from PIL import Image, ImageMath

from sandbox.primaries import Matrix, Row
from sandbox.transfers import Transfer

Bands = Sequence[Image.Image]

STEPS = 65535
"""Of linear light, for each of which sRGB's value is kept."""


def decode(strip: Image.Image, transfer: Transfer) -> Bands:
    """Return the light of an RGB picture with 8 bits."""
    table = linear_table(transfer)
    return [band.point(table, "F") for band in strip.split()]


def encode(bands: Bands) -> Image.Image:
    """Return light of sRGB's primaries as a picture with 8 bits; what is darker or brighter than it can be is cut."""
    table = srgb_table()
    steps = [
        compute(lambda of: of["min"](of["max"](of["band"], 0), 1) * STEPS + 0.5, band=band).convert("I")
        for band in bands
    ]
    return Image.merge("RGB", [band.point(table, "L") for band in steps])


def times(matrix: Matrix, bands: Bands) -> Bands:
    return [mixed(row, bands) for row in matrix]


def mixed(row: Row, bands: Bands) -> Image.Image:
    x, y, z = row
    return compute(lambda of: of["r"] * x + of["g"] * y + of["b"] * z, **named(bands))


def named(bands: Bands) -> dict[str, Image.Image]:
    return dict(zip("rgb", bands, strict=True))


def compute(formula: Callable[[dict[str, Any]], Any], **operands: Image.Image) -> Image.Image:
    """Return what the formula makes of pictures, as a picture of mode F."""
    made: Image.Image = ImageMath.lambda_eval(formula, **operands)
    return made


@cache
def linear_table(transfer: Transfer) -> list[float]:
    return [transfer(value / 255) for value in range(256)]


@cache
def srgb_table() -> list[int]:
    """Return sRGB's value, 0 to 255, for each step of light (IEC 61966-2-1)."""
    light = [step / STEPS for step in range(STEPS + 1)]
    return [round(255 * (12.92 * y if y <= 0.0031308 else 1.055 * y ** (1 / 2.4) - 0.055)) for y in light]
