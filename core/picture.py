"""Users' bytes into a picture: upright, sRGB, RGB with 8 bits, no larger than any clip needs, and nothing else.

The sandbox decodes an upload with it (sandbox/pictures.py), and a worker reads the stored input with it. It needs
Pillow and no numpy.
Not here: how large a file may be (the API's body limit) and how a picture is fitted into a frame
(worker/media/fit.py).
"""

import io
import math
import re
from collections.abc import Callable
from contextlib import suppress

from PIL import ExifTags, Image, ImageCms
from PIL.JpegImagePlugin import JpegImageFile

from core.errors import ImageTooLarge, ImageTooSmall, ImageUnreadable, ImageUnsupported, KinoraError

FORMATS = ("JPEG", "PNG", "WEBP")  # Pillow's JPEG reader also takes MPO, a phone's JPEG with a second picture inside
MIN_SIDE = 16
MAX_SIDE = 16384

# Larger pictures are reduced by a whole number until the next one would bring their shorter side under this. No
# clip is larger than 1920 px.
SHORT_SIDE = 2160

# What decoding may take beyond the process as it was. Where it runs under this limit as one of the kernel's, most
# formats end in a MemoryError; libjpeg and libwebp only say that the file is broken, so their needs are reckoned.
MEMORY_BYTES = 240_000_000
WEBP_BYTES = 16  # for each pixel: libwebp holds two canvases, Pillow a copy of one and its own picture
SPARE_BYTES = 10_000_000

STRIP_PIXELS = 1 << 14  # treated at once: only the decoder's own buffer and the result are large, strips stay in cache

# One scan is a pass over every pixel and can be 75 bytes short: at 50 megapixels a 20 MB file would decode for
# hours. libjpeg's own progressive files have 10 scans, or 18 in CMYK.
MAX_SCANS = 64
JPEG_MARKER = re.compile(rb"\xff[\x02-\xcf\xd9-\xfe]")  # all but stuffing, fill bytes, restarts, TEM and SOI
END_OF_IMAGE, START_OF_SCAN = b"\xff\xd9", b"\xff\xda"
FRAME_HEADERS = (b"\xc0", b"\xc1", b"\xc2")  # baseline, extended, progressive

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

# What each of the modes that the formats decode to is without alpha; RGB if it is not listed.
BASE_MODES = {"1": "L", "L": "L", "LA": "L", "I;16": "L", "CMYK": "CMYK"}

# A profile's colour space (ICC.1:2022, table 19) → the Pillow mode that it describes.
PROFILE_MODES = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK"}


def read_picture(data: bytes, max_megapixels: int) -> Image.Image:
    """Decode a JPEG, PNG or WebP file; of an animation, the first frame. Alpha is laid over black.

    Raises ImageUnsupported for other content, ImageUnreadable for broken files, ImageTooLarge above
    `max_megapixels` or a side of 16384 px, ImageTooSmall below 16 px. Sizes are checked before decoding.
    """
    if not is_supported(data):
        raise ImageUnsupported("file must be a JPEG, PNG or WebP picture", param="file")
    try:
        return decode(data, max_megapixels)
    except KinoraError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise too_large(max_megapixels, "far more") from error
    except MemoryError as error:
        raise too_much_memory() from error
    except Exception as error:  # hostile bytes make Pillow raise nearly anything, from struct.error to SystemError
        raise ImageUnreadable("file is broken: the picture in it cannot be decoded", param="file") from error


def is_supported(data: bytes) -> bool:
    return data.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")) or is_webp(data)


def is_webp(data: bytes) -> bool:
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def decode(data: bytes, max_megapixels: int) -> Image.Image:
    loaded, turn = open_picture(data, max_megapixels)
    flat = flatten(loaded)
    del loaded  # a large picture does not fit a third time
    upright = flat.transpose(turn) if turn is not None else flat
    upright.info = {}  # Pillow writes info's profile and comments into files; these pixels are plain sRGB now
    return upright


def open_picture(data: bytes, max_megapixels: int) -> tuple[Image.Image, Image.Transpose | None]:
    """The pixels as they are stored, and how to turn them."""
    if is_webp(data):  # opening one allocates its canvas
        check_size(webp_size(data), max_megapixels)
        check_memory(WEBP_BYTES * math.prod(webp_size(data)), data)
    with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
        check_size(opened.size, max_megapixels)
        if isinstance(opened, JpegImageFile):
            prepare_jpeg(opened, data)
        opened.load()
        return opened._new(opened.im), TURNS.get(orientation(opened))  # leaves libwebp's canvases behind


def prepare_jpeg(opened: JpegImageFile, data: bytes) -> None:
    """Have libjpeg reduce it, and reckon the coefficients, which it holds of the whole picture for several scans."""
    scans = count_scans(data)
    if scans > MAX_SCANS:
        raise ImageUnreadable(f"file must have at most {MAX_SCANS} progressive scans", param="file")
    areas = [across * down for _, across, down, _ in opened.layer]
    coefficients = math.prod(opened.size) * sum(areas) // max(areas) if scans > 1 else 0
    factor = reduction(opened.size)
    opened.draft(None, (opened.width // factor, opened.height // factor))
    check_memory(2 * coefficients + 4 * math.prod(opened.size), data)


def reduction(size: tuple[int, int]) -> int:
    return max(1, min(size) // SHORT_SIDE)


def check_memory(needed: int, data: bytes) -> None:
    if needed + len(data) + SPARE_BYTES > MEMORY_BYTES:
        raise too_much_memory()


def too_much_memory() -> ImageTooLarge:
    message = (
        f"decoding the picture needs more memory than is allowed ({MEMORY_BYTES // 1_000_000} MB): send it smaller"
    )
    return ImageTooLarge(message, param="file")


def webp_size(data: bytes) -> tuple[int, int]:
    """Of the canvas (RFC 9649, sections 2.5 to 2.7)."""
    kind, body = data[12:16], data[20:30].ljust(10, b"\0")
    if kind == b"VP8X":
        return int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind != b"VP8 ":
        raise ValueError(f"no WebP picture begins with {kind!r}")
    return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF


def check_size(size: tuple[int, int], max_megapixels: int) -> None:
    width, height = size
    if width * height > max_megapixels * 1_000_000:
        raise too_large(max_megapixels, f"{width * height / 1e6:.1f} ({width}×{height})")
    allowed = f"each side of the picture must be from {MIN_SIDE} to {MAX_SIDE} px; got {width}×{height}"
    if max(size) > MAX_SIDE:
        raise ImageTooLarge(allowed, param="file")
    if min(size) < MIN_SIDE:
        raise ImageTooSmall(allowed, param="file")


def too_large(max_megapixels: int, got: str) -> ImageTooLarge:
    return ImageTooLarge(f"the picture must have at most {max_megapixels} megapixels; got {got}", param="file")


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


def count_scans(jpeg: bytes) -> int:
    """Scans of the first picture in the file, found without decoding any."""
    scans, position = 0, 0
    while (marker := JPEG_MARKER.search(jpeg, position)) and marker[0] != END_OF_IMAGE:
        scans += marker[0] == START_OF_SCAN
        length = int.from_bytes(jpeg[marker.end() : marker.end() + 2], "big")
        position = marker.end() + length
    return scans


def orientation(picture: Image.Image) -> int:
    """EXIF's orientation, 1 to 8; 1 is upright."""
    try:
        return int(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # broken metadata does not make a broken picture; browsers show it as it is stored
        return 1


def flatten(picture: Image.Image) -> Image.Image:
    """Any mode that the three formats decode to → RGB in sRGB, opaque, reduced; strip by strip."""
    factor, (width, height) = reduction(picture.size), picture.size
    if factor == 1 and is_flat(picture):
        return picture
    to_srgb = colours(picture)
    flat = Image.new("RGB", (math.ceil(width / factor), math.ceil(height / factor)))
    rows = factor * max(1, STRIP_PIXELS // (factor * width))
    for top in range(0, height, rows):
        strip = opaque(picture.crop((0, top, width, min(height, top + rows))), to_srgb)
        flat.paste(strip.reduce(factor) if factor > 1 else strip, (0, top // factor))
    return flat


def is_flat(picture: Image.Image) -> bool:
    return picture.mode == "RGB" and not picture.has_transparency_data and "icc_profile" not in picture.info


def opaque(picture: Image.Image, to_srgb: Callable[[Image.Image], Image.Image]) -> Image.Image:
    base = BASE_MODES.get(picture.mode, "RGB")
    if picture.mode == "I;16":
        picture = high_bytes(picture)
    if not picture.has_transparency_data:
        return to_srgb(picture.convert(base))
    with_alpha = picture.convert("RGBA")
    black = Image.new("RGB", picture.size)
    black.paste(to_srgb(with_alpha.convert(base)), mask=with_alpha.getchannel("A"))
    return black


def high_bytes(picture: Image.Image) -> Image.Image:
    """Grey with 16 bits → 8 bits. Pillow's own convert("L") clips at 255, which leaves nearly all of it white."""
    grey = Image.frombytes("L", picture.size, picture.tobytes()[1::2])
    if "transparency" in picture.info:
        grey.info["transparency"] = picture.info["transparency"] >> 8
    return grey


def colours(picture: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """L, RGB or CMYK → RGB by the embedded profile. One that is broken, or meant for other modes, is ignored."""
    profile = picture.info.get("icc_profile")
    if profile:
        with suppress(Exception):  # like browsers: nonsense in the profile must not cost the picture
            return through_profile(profile, BASE_MODES.get(picture.mode, "RGB"))
    return lambda strip: strip.convert("RGB")


def through_profile(profile: bytes, base: str) -> Callable[[Image.Image], Image.Image]:
    embedded = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    mode = PROFILE_MODES[embedded.profile.xcolor_space.strip()]
    if mode != base and (base, mode) != ("L", "RGB"):  # grey JPEGs often carry an RGB profile
        raise ValueError(f"a profile for {mode} in a picture of mode {base}")
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    transform = ImageCms.ImageCmsTransform(embedded, srgb, mode, "RGB")
    return lambda strip: transform.apply(strip.convert(mode))
