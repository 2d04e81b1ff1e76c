"""WebP (RFC 9649): the chunks with pixels are handed to libwebp, and no other; metadata are read apart, so that damaged
ones cost nothing."""

import math
import struct
from collections.abc import Iterator

from PIL import Image

from sandbox.chained import chained
from sandbox.memory import check_memory
from sandbox.parts import few_parts
from sandbox.sizes import check_size
from sandbox.stored import Stored, turn_of

WEBP_BYTES = 16  # for each pixel: libwebp holds two canvases, Pillow a copy of one and its own picture
PIXELS = (b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF")
ANIMATION, ALPHA = 0x02, 0x10
"""Of the flags in VP8X those that pixels need; the others announce metadata."""


def read_webp(data: bytes, max_megapixels: int) -> Stored:
    """Raises InvalidRequest, and nearly anything for a broken file."""
    size = webp_size(data)  # opening one allocates its canvas
    check_size(size, max_megapixels)
    check_memory(WEBP_BYTES * math.prod(size), data)
    chunks = list(all_chunks(data))
    metadata = {kind: bytes(content) for kind, content in chunks if kind in (b"ICCP", b"EXIF")}
    with Image.open(chained(list(only_pixels(chunks))), formats=("WEBP",)) as opened:
        opened.load()
        picture = opened._new(opened.im)  # leaves libwebp's canvases behind
    profile = metadata.get(b"ICCP")
    return Stored(picture, turn=turn_of(metadata.get(b"EXIF", b"")), colours=(profile,) if profile else ())


def is_lossless(data: bytes) -> bool:
    return any(kind == b"VP8L" for kind, _ in all_chunks(data))


@few_parts
def all_chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Yield each chunk's kind and its content, as much of it as there is."""
    view, at = memoryview(data), 12
    while at + 8 <= len(data):
        (length,) = struct.unpack_from("<I", data, at + 4)
        yield data[at : at + 4], view[at + 8 : at + 8 + length]
        at += 8 + length + length % 2


def only_pixels(chunks: list[tuple[bytes, memoryview]]) -> Iterator[memoryview]:
    """Yield the parts of a WebP file with the same pixels and nothing else."""
    kept = [(kind, content) for kind, content in chunks if kind in PIXELS]
    length = 4 + sum(8 + len(content) + len(content) % 2 for _, content in kept)
    yield memoryview(b"RIFF" + struct.pack("<I", length) + b"WEBP")
    for kind, content in kept:
        yield memoryview(kind + struct.pack("<I", len(content)))
        yield memoryview(bytes([content[0] & (ANIMATION | ALPHA)]) + content[1:]) if kind == b"VP8X" else content
        yield memoryview(b"\0" * (len(content) % 2))


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
