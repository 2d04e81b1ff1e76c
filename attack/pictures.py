"""PNGs that are small to send and dear to read."""

import zlib

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GRAY, RGBA = 0, 6
EMPTY = 12  # bytes of a chunk without data


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def header(width: int, height: int, depth: int, colour: int) -> bytes:
    return chunk(b"IHDR", width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([depth, colour, 0, 0, 0]))


def many_chunks(count: int) -> bytes:
    """Return a picture with so many chunks that say nothing before its pixels."""
    pixels = chunk(b"IDAT", zlib.compress(bytes(65) * 64))
    return SIGNATURE + header(64, 64, 8, GRAY) + chunk(b"teSt") * count + pixels + chunk(b"IEND")


def rgba16(width: int, height: int) -> bytes:
    """Return a picture in black of eight bytes a pixel, of which little is left when it is compressed."""
    packer, row = zlib.compressobj(1), bytes(1 + 8 * width)
    pixels = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    return SIGNATURE + header(width, height, 16, RGBA) + chunk(b"IDAT", pixels) + chunk(b"IEND")
