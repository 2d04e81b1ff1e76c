"""Users' bytes into a picture: upright, sRGB, RGB with 8 bits, without anything else that the file held.

The API checks an upload with it, and a worker reads the stored input with it. It needs Pillow and no numpy.
Not here: how large a file may be (the API's body limit) and how a picture is fitted into a frame
(worker/media/fit.py).
"""

import io
import re
from contextlib import suppress

from PIL import ExifTags, Image, ImageCms

from core.errors import ImageTooLarge, ImageTooSmall, ImageUnreadable, ImageUnsupported, KinoraError

FORMATS = ("JPEG", "PNG", "WEBP")  # Pillow's JPEG reader also takes MPO, a phone's JPEG with a second picture inside
MIN_SIDE = 16
MAX_SIDE = 16384

# One scan is a pass over every pixel and can be 75 bytes short: at 50 megapixels a 20 MB file would decode for
# hours. libjpeg's own progressive files have 10 scans, or 18 in CMYK.
MAX_SCANS = 64
JPEG_MARKER = re.compile(rb"\xff[\x02-\xcf\xd9-\xfe]")  # all but stuffing, fill bytes, restarts, TEM and SOI
END_OF_IMAGE, START_OF_SCAN = b"\xff\xd9", b"\xff\xda"

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

# What each of the modes that the formats decode to is without alpha; RGB where it is not listed.
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
    except Exception as error:  # hostile bytes make Pillow raise nearly anything, from struct.error to MemoryError
        raise ImageUnreadable("file is broken: the picture in it cannot be decoded", param="file") from error


def is_supported(data: bytes) -> bool:
    return data.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")


def decode(data: bytes, max_megapixels: int) -> Image.Image:
    with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
        check_size(opened.size, max_megapixels)
        if opened.format in ("JPEG", "MPO") and count_scans(data) > MAX_SCANS:
            raise ImageUnreadable(f"file must have at most {MAX_SCANS} progressive scans", param="file")
        opened.load()
        flat = flatten(opened)
        turn = TURNS.get(orientation(opened))
    upright = flat.transpose(turn) if turn is not None else flat
    upright.info = {}  # Pillow writes info's profile and comments into files; these pixels are plain sRGB now
    return upright


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
    """Any mode that the three formats decode to → RGB in sRGB, opaque."""
    profile, base = picture.info.get("icc_profile"), BASE_MODES.get(picture.mode, "RGB")
    if picture.mode == "I;16":
        picture = high_bytes(picture)
    if not picture.has_transparency_data:
        return in_srgb(picture.convert(base), profile)
    with_alpha = picture.convert("RGBA")
    black = Image.new("RGB", picture.size)
    black.paste(in_srgb(with_alpha.convert(base), profile), mask=with_alpha.getchannel("A"))
    return black


def high_bytes(picture: Image.Image) -> Image.Image:
    """Grey with 16 bits → 8 bits. Pillow's own convert("L") clips at 255, which leaves nearly all of it white."""
    grey = Image.frombytes("L", picture.size, picture.tobytes()[1::2])
    if "transparency" in picture.info:
        grey.info["transparency"] = picture.info["transparency"] >> 8
    return grey


def in_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """L, RGB or CMYK → RGB by the embedded profile. One that is broken, or meant for other modes, is ignored."""
    if profile:
        with suppress(Exception):  # like browsers: nonsense in the profile must not cost the picture
            return through_profile(picture, profile)
    return picture.convert("RGB")


def through_profile(picture: Image.Image, profile: bytes) -> Image.Image:
    embedded = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    mode = PROFILE_MODES[embedded.profile.xcolor_space.strip()]
    if mode != picture.mode and (picture.mode, mode) != ("L", "RGB"):  # grey JPEGs often carry an RGB profile
        raise ValueError(f"a profile for {mode} in a picture of mode {picture.mode}")
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    return ImageCms.ImageCmsTransform(embedded, srgb, mode, "RGB").apply(picture.convert(mode))
