"""AVIF and HEIC: pictures in boxes (ISO/IEC 23008-12). Pillow reads the one, and says how to turn it; pi-heif reads the
other and has turned it. Both give 8 bits in RGB."""

import io
import struct
from collections.abc import Iterator

import pi_heif
from pi_heif.as_plugin import HeifImageFile
from PIL import AvifImagePlugin, Image
from PIL.AvifImagePlugin import AvifImageFile
from PIL.ImageFile import ImageFile

from sandbox.coded_colours import CodedColours, coded_colours
from sandbox.memory import check_memory, too_much_memory
from sandbox.sizes import check_size
from sandbox.stored import Colours, Stored, turn_of

THREADS = 1
"""To decode with. libde265 starts one even so, for which sandbox/no_processes.py makes room."""
PIXEL_BYTES = 8
"""At most, with the planes of brightness and colour, RGB, and Pillow's own picture."""
OUT_OF_MEMORY = ("memory allocation", "out of memory")
"""What libheif and libavif say."""
TO_COLOURS = (b"meta", b"iprp", b"ipco", b"colr")
SRGB, LIKE_SRGB = 13, (1, 6, 14, 15)
"""Transfer functions: in these files BT.709's is written for sRGB's, and browsers take it for that."""
NCLX_BYTES = 8  # of a colr box: nclx, and two codes of two bytes
META_HEAD = 4  # bytes of version and flags before the boxes in meta


def read_avif(data: bytes, max_megapixels: int) -> Stored:
    """Raises InvalidRequest, and nearly anything for a broken file."""
    AvifImagePlugin.DEFAULT_MAX_THREADS = THREADS
    try:
        return read_boxes(AvifImageFile, data, max_megapixels)
    except ValueError as error:
        if "Exif" not in str(error):
            raise
    return read_boxes(AvifImageFile, data.replace(b"Exif", b"skip"), max_megapixels)


def read_heic(data: bytes, max_megapixels: int) -> Stored:
    """Raises InvalidRequest, and nearly anything for a broken file."""
    pi_heif.options.DECODE_THREADS = THREADS
    return read_boxes(HeifImageFile, data, max_megapixels)


def read_boxes(reader: type[ImageFile], data: bytes, max_megapixels: int) -> Stored:
    try:
        with reader(io.BytesIO(data)) as opened:
            check_size(opened.size, max_megapixels)
            check_memory(PIXEL_BYTES * opened.width * opened.height, data)
            opened.load()
            exif = opened.info.get("exif") if reader is AvifImageFile else None  # pi-heif has turned it
            return Stored(opened._new(opened.im), turn=turn_of(exif or b""), colours=tuple(colours(opened, data)))
    except RuntimeError as error:
        if any(words in str(error).lower() for words in OUT_OF_MEMORY):
            raise too_much_memory() from error
        raise


def colours(opened: Image.Image, data: bytes) -> Iterator[Colours]:
    """Yield what says how the colours are meant, the strongest first."""
    if profile := opened.info.get("icc_profile"):
        yield profile
    for box in boxes(memoryview(data), TO_COLOURS):
        if bytes(box[:4]) == b"nclx" and len(box) >= NCLX_BYTES and (coded := codes_in(box)):
            yield coded


def codes_in(box: memoryview) -> CodedColours | None:
    primaries, transfer = struct.unpack_from(">HH", box, 4)
    return coded_colours(primaries, SRGB if transfer in LIKE_SRGB else transfer)


def boxes(data: memoryview, path: tuple[bytes, ...]) -> Iterator[memoryview]:
    """Yield the content of each box at the end of this path."""
    if not path:
        yield data
        return
    at = 0
    while at + 8 <= len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), bytes(data[at + 4 : at + 8])
        end = at + length if length >= 8 else len(data)
        if kind == path[0]:
            yield from boxes(data[at + 8 + META_HEAD * (kind == b"meta") : end], path[1:])
        at = end
