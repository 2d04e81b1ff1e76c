"""GIF, of which the first frame counts, and BMP: as Pillow reads them."""

import io
import math

from PIL import Image

from sandbox.formats import Format
from sandbox.memory import PIXEL_BYTES, check_memory
from sandbox.sizes import check_size
from sandbox.stored import Stored


def read_gif(data: bytes, max_megapixels: int) -> Stored:
    """Raises InvalidRequest, and nearly anything for a broken file."""
    return read_plain(data, max_megapixels, Format.GIF)


def read_bmp(data: bytes, max_megapixels: int) -> Stored:
    """Raises InvalidRequest, and nearly anything for a broken file."""
    return read_plain(data, max_megapixels, Format.BMP)


def read_plain(data: bytes, max_megapixels: int, format: Format) -> Stored:
    with Image.open(io.BytesIO(data), formats=(format,)) as opened:
        check_size(opened.size, max_megapixels)
        check_memory(PIXEL_BYTES * math.prod(opened.size), data)
        opened.load()
        return Stored(opened.copy())
