"""Rows of a stored picture, of any mode that the formats have → RGB with 8 bits in sRGB, alpha laid over black."""

from collections.abc import Callable
from contextlib import suppress

from PIL import Image, ImageChops

from sandbox.coded_colours import CodedColours
from sandbox.profiles import through_profile
from sandbox.stored import Stored

ToSrgb = Callable[[Image.Image], Image.Image]

# What each mode is without alpha; RGB if it is not listed.
BASE_MODES = {"1": "L", "L": "L", "LA": "L", "CMYK": "CMYK"}


def base_mode(mode: str) -> str:
    return BASE_MODES.get(mode, "RGB")


def colours_to_srgb(stored: Stored) -> ToSrgb:
    """Return what brings rows without alpha to sRGB: by the strongest of what the file says that is not broken, for
    like in browsers nonsense in a profile must not cost the picture."""
    for colours in stored.colours:
        if isinstance(colours, CodedColours):
            return lambda rows, coded=colours: coded.to_srgb(rows.convert("RGB"))  # type: ignore[misc]
        with suppress(Exception):
            return through_profile(colours, base_mode(stored.mode))
    return lambda rows: rows.convert("RGB")


def opaque(stored: Stored, top: int, bottom: int, to_srgb: ToSrgb) -> Image.Image:
    """Return these rows as they are seen."""
    high, low = stored.strip(top, bottom)
    base = base_mode(high.mode)
    has_alpha = high.has_transparency_data
    plain = high.convert("RGBA").convert(base) if has_alpha and high.mode == "P" else high.convert(base)
    seen = to_srgb(plain) if low is None else of_16_bits(plain, low.convert(base), to_srgb)
    mask = alpha(high, low) if has_alpha else None
    if stored.clear:
        mask = differs(high, low, stored.clear)
    if mask is None:
        return seen
    black = Image.new("RGB", seen.size)
    black.paste(seen, mask=mask)
    return black


def alpha(high: Image.Image, low: Image.Image | None) -> Image.Image:
    if low is None:
        return high.convert("RGBA").getchannel("A")
    return of_16_bits(high.getchannel("A"), low.getchannel("A"), lambda rows: rows)


def of_16_bits(high: Image.Image, low: Image.Image, convert: ToSrgb) -> Image.Image:
    """Return what `convert`, which takes 8 bits, makes of 16: between what it makes of the two nearest values."""
    below, part = nearest_below(high, low)
    first = convert(below)
    second = convert(below.point(lambda value: min(value + 1, 255)))
    parts = part.split() if len(part.getbands()) == len(first.getbands()) else part.split() * 3
    mixed = [
        Image.composite(more, less, share)
        for more, less, share in zip(second.split(), first.split(), parts, strict=True)
    ]
    return Image.merge(first.mode, mixed)


def nearest_below(high: Image.Image, low: Image.Image) -> tuple[Image.Image, Image.Image]:
    """Return the values of 8 bits that are not above those of 16, and how far these are on the way to the next, 0 to
    255: 16 bits divided by 257."""
    is_less = ImageChops.subtract(high, low).point(lambda value: min(value, 1))
    return ImageChops.subtract(high, is_less), ImageChops.subtract_modulo(low, high)


def differs(high: Image.Image, low: Image.Image | None, colour: tuple[int, ...]) -> Image.Image:
    """Return a mask of the pixels that have another colour, to the last bit."""
    bands = list(zip(high.convert("L").split() if high.mode == "1" else high.split(), colour, strict=True))
    if low is not None:
        bands = [(band, value >> 8) for band, value in bands]
        bands += [(band, value & 255) for band, value in zip(low.split(), colour, strict=True)]
    mask = Image.new("L", high.size)
    for band, value in bands:
        mask = ImageChops.lighter(mask, band.point([0 if each == value else 255 for each in range(256)]))
    return mask
