"""GIF, of which the first frame counts, and BMP: as Pillow reads them."""

import io
import math
import struct

from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile

from sandbox.memory import PIXEL_BYTES, check_memory
from sandbox.sizes import check_size
from sandbox.stored import Stored

# A BMP's header begins behind 14 bytes. The longest kind may hold an ICC profile: its length, which colours it is of,
# where the profile is and how long it is.
HEADER, LONGEST, COLOURS, PROFILE = 14, 124, 56, 112
EMBEDDED = b"DEBM"


def read_gif(data: bytes, max_megapixels: int) -> Stored:
    """Raises InvalidRequest, and nearly anything for a broken file."""
    with GifImageFile(io.BytesIO(data)) as opened:
        check_size(opened.size, max_megapixels)
        check_memory(2 * PIXEL_BYTES * math.prod(opened.size), data)
        box = opened.tile[0].extents
        opened.load()
        picture = opened._new(opened.im)
    if box == (0, 0, *picture.size):
        return Stored(picture)
    canvas = Image.new("RGBA", picture.size)
    canvas.paste(picture.crop(box).convert("RGBA"), box)
    return Stored(canvas)


def read_bmp(data: bytes, max_megapixels: int) -> Stored:
    """Raises InvalidRequest, and nearly anything for a broken file."""
    with BmpImageFile(io.BytesIO(data)) as opened:
        check_size(opened.size, max_megapixels)
        check_memory(PIXEL_BYTES * math.prod(opened.size), data)
        opened.load()
        return Stored(opened._new(opened.im), colours=tuple(profile for profile in [bmp_profile(data)] if profile))


def bmp_profile(data: bytes) -> bytes:
    """Return the ICC profile in a BMP; nothing if there is none."""
    header = data[HEADER : HEADER + LONGEST]
    if len(header) < LONGEST or header[COLOURS : COLOURS + 4] != EMBEDDED:
        return b""
    at, length = struct.unpack_from("<II", header, PROFILE)
    return data[HEADER + at : HEADER + at + length]
