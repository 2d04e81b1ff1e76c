"""What decoding a picture may take of memory beyond the process as it was.

Where it runs under this limit as one of the kernel's, most formats end in a MemoryError; libjpeg and libwebp only say
that the file is broken, so their needs are reckoned."""

import math
from collections.abc import Sequence

from PIL import Image

from core.errors import ImageTooLarge

MEMORY_BYTES = 240_000_000
SPARE_BYTES = 10_000_000
SINGLE_BYTE_MODES = ("1", "L", "P")
PIXEL_BYTES = 4
"""Of a pixel in memory, in all other modes."""


def check_memory(needed: int, data: bytes) -> None:
    """Raises ImageTooLarge if so many bytes beside the upload are more than is allowed."""
    if needed > free_bytes(data):
        raise too_much_memory()


def free_bytes(data: bytes, pictures: Sequence[Image.Image] = ()) -> int:
    """Return how many bytes are left beside the upload and these pictures."""
    return MEMORY_BYTES - SPARE_BYTES - len(data) - sum(size_in_memory(picture) for picture in pictures)


def size_in_memory(picture: Image.Image) -> int:
    return math.prod(picture.size) * (1 if picture.mode in SINGLE_BYTE_MODES else PIXEL_BYTES)


def too_much_memory() -> ImageTooLarge:
    message = (
        f"decoding the picture needs more memory than is allowed ({MEMORY_BYTES // 1_000_000} MB): send it smaller"
    )
    return ImageTooLarge(message, param="file")
