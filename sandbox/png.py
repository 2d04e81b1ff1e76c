"""PNG: its own reading of the chunks, of which only those with pixels and colours count (PNG specification, third
edition). zlib and Pillow do the rest. Text is never read, and no damage to what surrounds the pixels costs them."""

import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from io import BufferedReader
from typing import BinaryIO, NamedTuple

from PIL import Image
from PIL.ImageFile import ImageFile, _Tile

from sandbox.chained import chained
from sandbox.coded_colours import CodedColours, coded_colours
from sandbox.memory import PIXEL_BYTES, check_memory
from sandbox.mended import Mended
from sandbox.parts import few_parts
from sandbox.primaries import SRGB, Primaries, between
from sandbox.sizes import check_size
from sandbox.stored import Colours, Stored, turn_of
from sandbox.transfers import gamma

SIGNATURE = 8  # bytes
BEFORE_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM", b"eXIf")
"""What counts beside the pixels. A damaged one is as good as none, and so is one behind them."""
SRGB_GAMA = 45455
RGB_OF_FULL_RANGE = b"\0\1"
"""The end of cICP: no other matrix is allowed, and no browser shows another range."""
MAX_PROFILE_BYTES = 16_000_000

# By depth and colour type: the bits of a pixel, and how Pillow reads it: the mode, the raw mode, and the raw mode of
# the low bytes. The two bytes of a 16-bit grey are read as two bands.
GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
FORMS = {
    (1, GREY): (1, "1", "1", ""),
    (2, GREY): (2, "L", "L;2", ""),
    (4, GREY): (4, "L", "L;4", ""),
    (8, GREY): (8, "L", "L", ""),
    (16, GREY): (16, "LA", "LA", ""),
    (8, RGB): (24, "RGB", "RGB", ""),
    (16, RGB): (48, "RGB", "RGB;16B", "RGB;16L"),
    (1, PALETTE): (1, "P", "P;1", ""),
    (2, PALETTE): (2, "P", "P;2", ""),
    (4, PALETTE): (4, "P", "P;4", ""),
    (8, PALETTE): (8, "P", "P", ""),
    (8, GREY_ALPHA): (16, "LA", "LA", ""),
    (16, GREY_ALPHA): (32, "RGBA", "RGBA", ""),
    (8, RGBA): (32, "RGBA", "RGBA", ""),
    (16, RGBA): (64, "RGBA", "RGBA;16B", "RGBA;16L"),
}
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Of each pass: the first column and row, and the steps between them."""


class Header(NamedTuple):
    width: int
    height: int
    depth: int
    colour_type: int
    compression: int
    filtering: int
    interlaced: int

    @property
    def form(self) -> tuple[int, str, str, str]:
        return FORMS[self.depth, self.colour_type]

    @property
    def stream_bytes(self) -> int:
        """Of the pixels, each row behind the byte that names its filter."""
        if not self.interlaced:
            return self.height * self.row_bytes(self.width)
        sizes = [(-(-(self.width - x) // across), -(-(self.height - y) // down)) for x, y, across, down in ADAM7]
        return sum(max(height, 0) * self.row_bytes(width) for width, height in sizes if width > 0)

    def row_bytes(self, width: int) -> int:
        return 1 + -(-width * self.form[0] // 8)


def read_png(data: bytes, max_megapixels: int) -> Stored:
    """Raises InvalidRequest, and nearly anything for a broken file."""
    chunks, parts = read_chunks(data)
    header = Header(*struct.unpack(">IIBBBBB", chunks[b"IHDR"]))
    check_size((header.width, header.height), max_megapixels)
    check_memory(header.width * header.height * PIXEL_BYTES * (2 if header.form[3] else 1), data)
    picture, low = undamaged(header, parts) or mended(header, parts)
    if header.colour_type == PALETTE:
        picture.putpalette(whole_palette(chunks[b"PLTE"]))
        if 0 < len(chunks.get(b"tRNS", b"")) <= 256:
            picture.info["transparency"] = chunks[b"tRNS"]
    return Stored(
        picture,
        low,
        is_packed=header.depth == 16 and low is None,
        turn=turn_of(chunks.get(b"eXIf", b"")),
        colours=tuple(colours(chunks)),
        clear=clear(header, chunks.get(b"tRNS", b"")),
    )


def read_chunks(data: bytes) -> tuple[dict[bytes, bytes], list[memoryview]]:
    """Return the first of each kind of chunk that counts, and the parts of the stream of the pixels."""
    first: dict[bytes, bytes] = {}
    parts: list[memoryview] = []
    for kind, body, is_whole in all_chunks(data):
        if kind == b"IDAT":
            parts.append(body)
        elif is_whole and kind in BEFORE_PIXELS and not parts:
            first.setdefault(kind, bytes(body))
    return first, parts


@few_parts
def all_chunks(data: bytes) -> Iterator[tuple[bytes, memoryview, bool]]:
    """Yield each chunk's kind, its content, and whether its check sum is right."""
    view, at = memoryview(data), SIGNATURE
    while at + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind, body = data[at + 4 : at + 8], view[at + 8 : at + 8 + length]
        at += 12 + length
        yield kind, body, zlib.crc32(body, zlib.crc32(kind)).to_bytes(4, "big") == data[at - 4 : at]
        if kind == b"IEND":
            return


def undamaged(header: Header, parts: Sequence[memoryview]) -> tuple[Image.Image, Image.Image | None] | None:
    """Return the pixels; None if the stream is no good one."""
    try:
        return pixels(header, lambda: chained(parts))
    except OSError:
        return None


def mended(header: Header, parts: Sequence[memoryview]) -> tuple[Image.Image, Image.Image | None]:
    """Return the pixels of a stream with a wrong check sum or header, say. Raises ImageUnreadable if it is cut off."""
    return pixels(header, lambda: BufferedReader(Mended(chained(parts), header.stream_bytes)))


class Rows(ImageFile):
    """The stream of a PNG's pixels, for the decoder of rows that Pillow has."""

    format = "PNG"

    def __init__(self, stream: BinaryIO, header: Header, mode: str, raw: str) -> None:
        self._header, self._how = header, (mode, raw)
        super().__init__(stream)

    def _open(self) -> None:
        header, (self._mode, raw) = self._header, self._how
        self._size = (header.width, header.height)
        self.tile = [_Tile("zip", (0, 0, *self._size), 0, (raw, header.interlaced))]


def pixels(header: Header, open_stream: Callable[[], BinaryIO]) -> tuple[Image.Image, Image.Image | None]:
    """Return the picture, and the low bytes if it has 16 bits that Pillow reads as 8. Raises OSError."""
    _, mode, raw, raw_low = header.form
    return decoded(header, open_stream(), mode, raw), decoded(header, open_stream(), mode, raw_low) if raw_low else None


def decoded(header: Header, stream: BinaryIO, mode: str, raw: str) -> Image.Image:
    with Rows(stream, header, mode, raw) as rows:
        rows.load()
        return rows._new(rows.im)


def whole_palette(palette: bytes) -> bytes:
    """Return 256 colours. A pixel that names none has the last one, as in Chromium."""
    return (palette[: len(palette) // 3 * 3] + palette[-3:] * 256)[: 3 * 256]


def clear(header: Header, value: bytes) -> tuple[int, ...] | None:
    """Return the colour that stands for nothing, band by band, on a scale of 8 bits or of 16."""
    count = {GREY: 1, RGB: 3}.get(header.colour_type)
    if not count or len(value) < 2 * count:
        return None
    most = (1 << header.depth) - 1
    scale = 1 if header.depth == 16 else 255 // most
    return tuple((each & most) * scale for each in struct.unpack(f">{count}H", value[: 2 * count]))


def colours(chunks: dict[bytes, bytes]) -> Iterator[Colours]:
    """Yield what says how the colours are meant, the strongest first (specification, section 4.3)."""
    codes = chunks.get(b"cICP", b"")
    if len(codes) == 4 and codes[2:] == RGB_OF_FULL_RANGE and (coded := coded_colours(codes[0], codes[1])):
        yield coded
    if profile := inflated_profile(chunks.get(b"iCCP", b"")):
        yield profile
    if len(chunks.get(b"sRGB", b"")) == 1 and chunks[b"sRGB"][0] <= 3:
        return
    if numbers := colours_in_numbers(chunks.get(b"gAMA", b""), chunks.get(b"cHRM", b"")):
        yield numbers


def inflated_profile(chunk: bytes) -> bytes | None:
    """Return the profile in iCCP, behind its name and a method that must be 0; None if it is broken or huge."""
    _, _, rest = chunk.partition(b"\0")
    decompress = zlib.decompressobj()
    with suppress(zlib.error):
        profile = decompress.decompress(rest[1:], MAX_PROFILE_BYTES)
        if rest[:1] == b"\0" and decompress.eof:
            return profile
    return None


def colours_in_numbers(gama: bytes, chrm: bytes) -> CodedColours | None:
    """Return what gAMA and cHRM mean, as Chromium takes them: cHRM counts only beside gAMA, and a gAMA alone that is
    about the usual one means sRGB."""
    exponent = int.from_bytes(gama, "big") if len(gama) == 4 else 0
    if not exponent or (abs(exponent / SRGB_GAMA - 1) < 0.05 and len(chrm) != 32):
        return None
    primaries = SRGB
    if len(chrm) == 32:
        x_and_y = [value / 100_000 for value in struct.unpack(">8I", chrm)]
        primaries = Primaries(*zip(x_and_y[0::2], x_and_y[1::2], strict=True))
    with suppress(ZeroDivisionError):
        between(primaries, SRGB)
        return CodedColours(primaries, gamma(100_000 / exponent))
    return None
