"""An uploaded picture, decoded and encoded anew, in a child of the sandbox: upright, sRGB, RGB with 8 bits, no larger
than any clip needs, and nothing else.

Not here: how large a file may be (the API's body limit) and how a picture is fitted into a frame
(worker/media/fit.py)."""

import io
from functools import cache
from pathlib import Path

from PIL import ExifTags, Image

from core.errors import ImageUnreadable, KinoraError
from sandbox import light, transfers
from sandbox.flatten import flatten
from sandbox.formats import Format, format_of
from sandbox.gif_and_bmp import read_bmp, read_gif
from sandbox.heif import read_avif, read_heic
from sandbox.jpeg import read_jpeg
from sandbox.memory import too_much_memory
from sandbox.png import read_png
from sandbox.sizes import too_large
from sandbox.webp import is_lossless, read_webp

READERS = {
    Format.JPEG: read_jpeg,
    Format.PNG: read_png,
    Format.WEBP: read_webp,
    Format.AVIF: read_avif,
    Format.HEIC: read_heic,
    Format.GIF: read_gif,
    Format.BMP: read_bmp,
}
SMALL = Path(__file__).parent / "small"
"""Pictures of the formats that Pillow cannot write, or only slowly."""
COMMON_SIDE = 512  # pixels; a larger one would keep the cores from who waits for a video


def read(data: bytes, max_megapixels: int) -> memoryview:
    """Return the picture as a JPEG or PNG with nothing else in it. Raises InvalidRequest."""
    return encode(read_picture(data, max_megapixels), is_lossy(data))


def read_picture(data: bytes, max_megapixels: int) -> Image.Image:
    """Return what a browser shows of a file; of an animation, the first frame. Alpha is laid over black.

    Raises ImageUnsupported for other content, ImageUnreadable for broken files, ImageTooLarge above `max_megapixels`
    or a side of 16384 px, ImageTooSmall below 16 px. Sizes are checked before decoding.
    """
    reader = READERS[format_of(data)]
    try:
        flat = flatten(reader(data, max_megapixels), data)
    except KinoraError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise too_large(max_megapixels, "far more") from error
    except MemoryError as error:
        raise too_much_memory() from error
    except Exception as error:  # hostile bytes make Pillow raise nearly anything, from struct.error to SystemError
        raise ImageUnreadable("file is broken: the picture in it cannot be decoded", param="file") from error
    flat.info = {}  # Pillow writes info's profile and comments into files; these pixels are plain sRGB now
    return flat


def encode(picture: Image.Image, as_jpeg: bool) -> memoryview:
    """Only pixels: no metadata, no tail."""
    file = io.BytesIO()
    try:
        if as_jpeg:
            picture.save(file, "JPEG", quality=95, subsampling="4:4:4")
        else:
            picture.save(file, "PNG", compress_level=1)
    except MemoryError as error:
        raise too_much_memory() from error
    return file.getbuffer()


def is_lossy(upload: bytes) -> bool:
    """Whether it came with losses, as photos do, which PNG would take ten times as long for."""
    format = format_of(upload)
    return format in (Format.JPEG, Format.AVIF, Format.HEIC) or (format is Format.WEBP and not is_lossless(upload))


def load_all_code() -> None:
    """Have all be imported that a child, which can open no file, would import late. And have the memory of a common
    picture at hand: to get that page by page takes as long as a fifth of the decoding."""
    for data in small_pictures():
        encode(read_picture(data, 1), is_lossy(data))
    light.encode(light.decode(Image.new("RGB", (1, 1)), transfers.srgb))


@cache
def small_pictures() -> list[bytes]:
    tags = Image.Exif()
    tags[ExifTags.Base.Orientation] = 6
    made = []
    for format in (Format.JPEG, Format.PNG, Format.WEBP, Format.GIF, Format.BMP):
        file = io.BytesIO()
        side = COMMON_SIDE if format is Format.JPEG else 16
        Image.new("RGB", (side, side)).save(file, format, exif=tags)
        made.append(file.getvalue())
    return made + [path.read_bytes() for path in SMALL.iterdir()]
