"""Parts of picture files, and pictures that show each fault."""

import io
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sandbox.png import ADAM7

GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}


def saved(picture: Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, format, **options)
    return file.getvalue()


def plain(colour: Any, mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> Image.Image:
    return Image.new(mode, size, colour)


def photo(width: int = 48, height: int = 32) -> Image.Image:
    """Smooth, with other colours in each corner, so that a wrong turn or a lost channel shows."""
    y, x = np.mgrid[0:height, 0:width]
    channels = [x * 255 / (width - 1), y * 255 / (height - 1), 255 - x * 200 / (width - 1)]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def gradient(width: int, height: int, mode: str = "RGB") -> Image.Image:
    return Image.merge(
        mode, [Image.linear_gradient("L").resize((width, height), Image.Resampling.BILINEAR)] * len(mode)
    )


def exif(orientation: Any) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    tags[0x010F] = "a maker"
    return tags.tobytes()


# PNG


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(
    colour_type: int, depth: int, size: tuple[int, int], raw: bytes, *extra: bytes, interlaced: bool = False
) -> bytes:
    """A PNG of filtered rows."""
    header = struct.pack(">IIBBBBB", *size, depth, colour_type, 0, 0, interlaced)
    pixels = chunk(b"IDAT", zlib.compress(raw))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(extra) + pixels + chunk(b"IEND", b"")


def png(colour_type: int, depth: int, size: tuple[int, int], row: bytes, *extra: bytes) -> bytes:
    """A PNG of equal rows."""
    return png_of(colour_type, depth, size, (b"\0" + row) * size[1], *extra)


def png_from(values: NDArray[Any], colour_type: int, depth: int, *extra: bytes, interlaced: bool = False) -> bytes:
    """A PNG of these values, height × width × bands."""
    passes = ADAM7 if interlaced else ((0, 0, 1, 1),)
    raw = b"".join(
        b"\0" + packed(row, depth)
        for x, y, across, down in passes
        for row in values[y::down, x::across].tolist()
        if row
    )
    return png_of(colour_type, depth, (values.shape[1], values.shape[0]), raw, *extra, interlaced=interlaced)


def packed(row: Sequence[Sequence[int]], depth: int) -> bytes:
    bits = "".join(f"{value:0{depth}b}" for pixel in row for value in pixel)
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


def swatches(colours: Sequence[tuple[int, int, int]], *extra: bytes) -> bytes:
    """A PNG with a column of 16 px for each colour."""
    return png(RGB, 8, (16 * len(colours), 16), b"".join(bytes(colour) * 16 for colour in colours), *extra)


def iccp(profile: bytes) -> bytes:
    return chunk(b"iCCP", b"a name\0\0" + zlib.compress(profile))


def cicp(primaries: int, transfer: int) -> bytes:
    return chunk(b"cICP", bytes([primaries, transfer, 0, 1]))


def gama(value: float) -> bytes:
    return chunk(b"gAMA", struct.pack(">I", round(value * 100_000)))


def chrm(*x_and_y: float) -> bytes:
    """Of white, red, green and blue."""
    return chunk(b"cHRM", struct.pack(">8I", *(round(value * 100_000) for value in x_and_y)))


# JPEG


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def after_start(jpeg: bytes, *segments: bytes) -> bytes:
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


# ICC profiles


def number(value: float) -> bytes:
    """s15Fixed16Number of ICC.1:2022."""
    return struct.pack(">i", round(value * 65536))


def xyz(x: float, y: float, z: float) -> bytes:
    return b"XYZ \0\0\0\0" + number(x) + number(y) + number(z)


def gamma(value: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IHxx", 1, round(value * 256))


def profile(space: bytes, kind: bytes, connection: bytes, **tags: bytes) -> bytes:
    """An ICC profile (version 2.4) for D50 with the given tags."""
    tags = {"desc": b"desc\0\0\0\0\0\0\0\1" + bytes(83), "wtpt": xyz(0.9642, 1, 0.8249), **tags}
    table, data = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += name.encode() + struct.pack(">II", start + len(data), len(content))
        data += content + bytes(-len(content) % 4)
    header = struct.pack(">I4xI4s4s4s12x", start + len(data), 0x02400000, kind, space, connection) + b"acsp" + bytes(28)
    return header + xyz(0.9642, 1, 0.8249)[8:] + bytes(48) + table + data


# The columns of the matrices to XYZ, adapted to D50: Display P3 and sRGB as their published profiles have them.
P3 = np.array([[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]])
SRGB = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])


def wide(curve: bytes, **tags: bytes) -> bytes:
    """A profile with the primaries of Display P3."""
    columns = {f"{name}XYZ": xyz(*P3[:, index]) for index, name in enumerate("rgb")}
    return profile(b"RGB ", b"mntr", b"XYZ ", **columns, **{f"{name}TRC": curve for name in "rgb"}, **tags)


WIDE = wide(gamma(2.2))
LINEAR_GREY = profile(b"GRAY", b"mntr", b"XYZ ", kTRC=gamma(1))


def with_codes(primaries: int, transfer: int) -> bytes:
    """A profile whose cicp tag says something else than the rest of it."""
    return wide(gamma(2.2), cicp=b"cicp\0\0\0\0" + bytes([primaries, transfer, 0, 1]))


def cyan_is_grey() -> bytes:
    """A press whose cyan ink prints neutral grey, and whose other inks print nothing: A2B0 as lut8 with 2⁴ points."""
    identity = b"".join(number(value) for value in (1, 0, 0, 0, 1, 0, 0, 0, 1))
    paper, inked = bytes([255, 128, 128]), bytes([0, 128, 128])
    tables = bytes(range(256))
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + tables * 4 + paper * 8 + inked * 8 + tables * 3
    return profile(b"CMYK", b"prtr", b"Lab ", A2B0=lut)
