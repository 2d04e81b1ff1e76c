"""ICC profiles: colours by what is embedded in a picture (ICC.1:2022). LittleCMS does the work."""

import io
import struct
from collections.abc import Callable

from PIL import Image, ImageCms

from sandbox.coded_colours import coded_colours

# A profile's colour space (table 19) → the Pillow mode that it describes.
MODES = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK"}
HEADER, TAG, TYPE = 128, 12, 8  # bytes of a profile's header, of a tag in its table, of a tag's type


def through_profile(profile: bytes, base: str) -> Callable[[Image.Image], Image.Image]:
    """Return what makes pictures of mode `base` sRGB. Raises nearly anything for a profile that is broken, or meant for
    pictures of other modes."""
    embedded = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    mode = MODES[embedded.profile.xcolor_space.strip()]
    if mode != base and (base, mode) != ("L", "RGB"):  # grey JPEGs often carry an RGB profile
        raise ValueError(f"a profile for {mode} in a picture of mode {base}")
    if mode == "RGB" and (coded := coded_colours(*codes_in(profile))):
        return lambda strip: coded.to_srgb(strip.convert("RGB"))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    if mode == "L":
        return grey_to_srgb(ImageCms.ImageCmsTransform(embedded, srgb, "L", "RGB", flags=ImageCms.Flags.NOOPTIMIZE))
    transform = ImageCms.ImageCmsTransform(embedded, srgb, mode, "RGB")
    return lambda strip: transform.apply(strip.convert(mode))


def grey_to_srgb(transform: ImageCms.ImageCmsTransform) -> Callable[[Image.Image], Image.Image]:
    """Return what looks up each of the 256 greys: LittleCMS would have but 33 points of a grey curve at hand, which is
    far too few for a linear one, or take long."""
    greys = transform.apply(Image.frombytes("L", (256, 1), bytes(range(256))))
    tables = [band.tobytes() for band in greys.split()]
    return lambda strip: Image.merge("RGB", [strip.point(table) for table in tables])


def codes_in(profile: bytes) -> tuple[int, int]:
    """Return the codes of H.273 for primaries and transfer function in a profile's cicp tag, which outranks the rest of
    it; zeros if it has none."""
    (count,) = struct.unpack_from(">I", profile, HEADER)
    for at in range(HEADER + 4, min(HEADER + 4 + TAG * count, len(profile) - TAG + 1), TAG):
        name, start, _ = struct.unpack_from(">4sII", profile, at)
        if name == b"cicp":
            return profile[start + TYPE], profile[start + TYPE + 1]
    return 0, 0
