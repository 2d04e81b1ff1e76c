"""Which kind of file an upload is, by its first bytes."""

from enum import StrEnum

from core.errors import ImageUnsupported


class Format(StrEnum):
    JPEG = "JPEG"
    PNG = "PNG"
    WEBP = "WebP"
    AVIF = "AVIF"
    HEIC = "HEIC"
    GIF = "GIF"
    BMP = "BMP"


STARTS = {
    b"\xff\xd8\xff": Format.JPEG,
    b"\x89PNG\r\n\x1a\n": Format.PNG,
    b"GIF87a": Format.GIF,
    b"GIF89a": Format.GIF,
    b"BM": Format.BMP,
}
# Of ISO base media files (ISO/IEC 14496-12, 4.3): AVIF 1.1, section 8; ISO/IEC 23008-12, annex B.
BRANDS = {
    Format.AVIF: {b"avif", b"avis"},
    Format.HEIC: {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"},
}
# What people send in the place of a picture, so that they are told what they sent.
OTHERS = {
    b"II*\0": "a TIFF picture",
    b"MM\0*": "a TIFF picture",
    b"\xff\x0a": "a JPEG XL picture",
    b"\0\0\0\x0cJXL ": "a JPEG XL picture",
    b"\0\0\0\x0cjP  ": "a JPEG 2000 picture",
    b"\0\0\1\0": "an icon",
    b"8BPS": "a Photoshop document",
    b"%PDF": "a PDF document",
    b"PK\3\4": "a ZIP archive",
    b"\x1aE\xdf\xa3": "a video",
    b"<svg": "an SVG drawing",
    b"<?xml": "an XML document",
    b"<!doctype": "a web page",
    b"<html": "a web page",
}


def format_of(data: bytes) -> Format:
    """Raises ImageUnsupported for what is no picture of a kind that is read."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return Format.WEBP
    brands = brands_of(data)
    found = [format for format, its in BRANDS.items() if its & brands] + [
        format for start, format in STARTS.items() if data.startswith(start)
    ]
    if found:
        return found[0]
    kinds = ", ".join(list(Format)[:-1])
    raise ImageUnsupported(f"file must be a {kinds} or {Format.BMP} picture{got(data, brands)}", param="file")


def brands_of(data: bytes) -> set[bytes]:
    """Return the brands of an ISO base media file, the major one among them; none of any other file."""
    if data[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(data[:4], "big"), 256)
    return {data[at : at + 4] for at in (8, *range(16, end, 4))}


def is_heic(data: bytes) -> bool:
    return bool(BRANDS[Format.HEIC] & brands_of(data))


def got(data: bytes, brands: set[bytes]) -> str:
    if not data:
        return "; it is empty"
    if brands:
        return "; got a HEIF picture of another kind" if b"mif1" in brands else "; got a video"
    head = data[:16].lower()
    return next((f"; got {name}" for start, name in OTHERS.items() if head.startswith(start.lower())), "")
