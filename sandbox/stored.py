"""A picture as a file stores it: pixels that are not yet upright, opaque or sRGB, and what says how they become so."""

from typing import NamedTuple

from PIL import ExifTags, Image

from sandbox.coded_colours import CodedColours

Colours = bytes | CodedColours
"""An ICC profile, or colours named by codes."""

# ImageOps.exif_transpose does this too, but it rewrites the whole EXIF block and fails on odd ones.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Stored(NamedTuple):
    picture: Image.Image
    """Of 16 bits, the high bytes; if it `is_packed`, each high byte before its low byte, as a band of its own."""
    low: Image.Image | None = None
    """The low bytes of 16 bits."""
    is_packed: bool = False
    turn: Image.Transpose | None = None
    """What makes it upright."""
    colours: tuple[Colours, ...] = ()
    """What says how the colours are meant, the strongest first; without any they are sRGB."""
    clear: tuple[int, ...] | None = None
    """The colour that stands for nothing, band by band, on the scale of 8 or 16 bits."""

    @property
    def mode(self) -> str:
        """Of the high bytes."""
        return {"LA": "L", "RGBA": "LA"}[self.picture.mode] if self.is_packed else self.picture.mode

    def strip(self, top: int, bottom: int) -> tuple[Image.Image, Image.Image | None]:
        """Return these rows, and their low bytes if they have 16 bits."""
        box = (0, top, self.picture.width, bottom)
        part = self.picture.crop(box)
        if not self.is_packed:
            return part, self.low and self.low.crop(box)
        bands = part.split()
        high, low = (Image.merge(self.mode, bands[first::2]) for first in (0, 1))
        return high, low


def turn_of(exif: bytes) -> Image.Transpose | None:
    """Return what makes a picture with these EXIF data upright; None if it is, or if they are broken."""
    try:
        tags = Image.Exif()
        tags.load(exif)
        return TURNS.get(int(tags.get(ExifTags.Base.Orientation, 1)))
    except Exception:  # broken metadata does not make a broken picture; browsers show it as it is stored
        return None
