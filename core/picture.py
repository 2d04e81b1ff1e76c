"""Pictures as they are stored: JPEGs and PNGs that the sandbox encoded anew, upright and in sRGB."""

import io

from PIL import Image

from core.errors import ImageUnreadable

FORMATS = ("JPEG", "PNG")
FRAME_HEADERS = (b"\xc0", b"\xc1", b"\xc2")  # of JPEG: baseline, extended, progressive


def read_stored(data: bytes) -> Image.Image:
    """Return its pixels in RGB. Raises ImageUnreadable."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            return opened.convert("RGB")
    except Exception as error:  # broken bytes make Pillow raise nearly anything
        raise ImageUnreadable("file is broken: the picture in it cannot be decoded", param="file") from error


def size_of(clean: bytes | bytearray) -> tuple[int, int]:
    """Width and height of a JPEG or PNG that was encoded here: read from its head, and nothing of it is decoded."""
    if clean.startswith(b"\x89PNG"):
        return int.from_bytes(clean[16:20], "big"), int.from_bytes(clean[20:24], "big")
    position = 2
    while position < len(clean):
        length = int.from_bytes(clean[position + 2 : position + 4], "big")
        if clean[position + 1 : position + 2] in FRAME_HEADERS:
            height, width = clean[position + 5 : position + 7], clean[position + 7 : position + 9]
            return int.from_bytes(width, "big"), int.from_bytes(height, "big")
        position += 2 + length
    raise ImageUnreadable("file is broken: it does not say how large its picture is", param="file")
