"""JPEG: the segments that libjpeg needs are found and handed on, and no other. Metadata are read apart, so that damaged
ones cost nothing; a second picture or a video behind the first is left out."""

import math
import re
import zlib
from collections.abc import Iterator
from hashlib import sha512
from typing import NamedTuple

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from core.errors import ImageUnreadable
from sandbox.chained import chained
from sandbox.memory import PIXEL_BYTES, check_memory, free_bytes
from sandbox.parts import few_parts
from sandbox.sizes import SHORT_SIDE, check_size
from sandbox.stored import Stored, turn_of

# One scan is a pass over every pixel and can be 75 bytes short: at 50 megapixels a 20 MB file would decode for
# hours. libjpeg's own progressive files have 10 scans, or 18 in CMYK.
MAX_SCANS = 64

START, END, SCAN = b"\xff\xd8", b"\xff\xd9", 0xDA
BASELINE, EXTENDED, PROGRESSIVE = 0xC0, 0xC1, 0xC2
TABLES = (0xC4, 0xCC, 0xDB, 0xDC, 0xDD)
"""Huffman and arithmetic tables, quantization, number of lines, restart interval."""
APP0, APP1, APP2, APP14 = 0xE0, 0xE1, 0xE2, 0xEE
COMMENT = 0xFE
AFTER_A_SCAN = (*TABLES, SCAN, *range(0xE0, 0xF0), COMMENT)
ALONE = (0x01, *range(0xD0, 0xD9))
"""Markers without a segment."""

RESTART = re.compile(rb"\xff[\xd0-\xd7]")
# Within a scan: all but stuffing, fill bytes and restarts.
MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")


class Segments(NamedTuple):
    head: list[memoryview]
    """Of the file, up to its first scan."""
    scans: list[memoryview]
    """All scans, with the tables between them."""
    scan_count: int
    frame: bytes
    """Its head, from its marker's second byte."""
    has_end: bool
    exif: bytes
    profile: bytes


def read_jpeg(data: bytes, max_megapixels: int) -> Stored:
    """Raises InvalidRequest, and nearly anything for a broken file."""
    segments = find_segments(data)
    if segments.scan_count > MAX_SCANS:
        raise ImageUnreadable(f"file must have at most {MAX_SCANS} progressive scans", param="file")
    picture = (decode if segments.has_end else decode_without_end)(segments, END, data, max_megapixels)
    return Stored(picture, turn=turn_of(segments.exif), colours=(segments.profile,) if segments.profile else ())


def decode(segments: Segments, tail: bytes, data: bytes, max_megapixels: int) -> Image.Image:
    parts = [memoryview(START), *segments.head, *segments.scans, memoryview(tail)]
    with JpegImageFile(chained(parts)) as opened:
        check_size(opened.size, max_megapixels)
        reduce_in_libjpeg(opened, data, segments.scan_count)
        opened.load()
        return opened._new(opened.im)  # leaves the file behind


def decode_without_end(segments: Segments, tail: bytes, data: bytes, max_megapixels: int) -> Image.Image:
    """Return what `decode` does. Raises ImageUnreadable if pixels are missing: then what follows the file changes the
    picture, or a scan is not there."""
    otherwise = check_sum(decode(segments, other_bits(segments.scans[-1]) + tail, data, max_megapixels))
    picture = decode(segments, tail, data, max_megapixels)
    if otherwise != check_sum(picture) or not has_all_scans(segments):
        raise ImageUnreadable("file is cut off: the picture in it is not complete", param="file")
    return picture


def other_bits(scan: memoryview) -> bytes:
    """Return what, read for coefficients that the scan lacks, gives others than libjpeg does if there are none: in
    whichever interval between two restarts, so that each begins with the number that is awaited."""
    restarts = [found[0][1] for found in RESTART.finditer(scan)]
    awaited = restarts[-1] + 1 if restarts else 0
    return b"".join(
        sha512(bytes([count])).digest().replace(b"\xff", b"") + bytes([0xFF, 0xD0 + (awaited + count) % 8])
        for count in range(16)
    )


def has_all_scans(segments: Segments) -> bool:
    """Return whether the heads of the scans tell of every coefficient of every band, down to its last bit (ITU-T T.81,
    section B.2.3)."""
    if segments.scan_count == 1 and segments.frame[0] != PROGRESSIVE:
        return True
    missing = {(band, coefficient) for band in bands_of(segments.frame) for coefficient in range(64)}
    for part in segments.scans:
        if part[1] == SCAN and part[4] <= 4:
            first, last, bits = part[5 + 2 * part[4] : 8 + 2 * part[4]]
            bands = part[5 : 5 + 2 * part[4] : 2]
            if not bits & 15:
                missing -= {(band, coefficient) for band in bands for coefficient in range(first, last + 1)}
    return not missing


def bands_of(frame: bytes) -> bytes:
    """Return the ids of the bands that the head of the frame names."""
    return frame[9::3]


def check_sum(picture: Image.Image) -> int:
    value = 0
    for top in range(0, picture.height, 64):
        value = zlib.crc32(picture.crop((0, top, picture.width, min(top + 64, picture.height))).tobytes(), value)
    return value


def reduce_in_libjpeg(opened: JpegImageFile, data: bytes, scans: int) -> None:
    """Have it decode to a half, quarter or eighth if that is large enough, or all that memory has room for beside the
    coefficients, which libjpeg holds of the whole picture for several scans. Raises ImageTooLarge."""
    areas = [across * down for _, across, down, _ in opened.layer]
    coefficients = 2 * math.prod(opened.size) * sum(areas) // max(areas) if scans > 1 else 0
    short = min(opened.size)
    factor = next(each for each in (8, 4, 2, 1) if short // each >= SHORT_SIDE or each == 1)
    reduced = (SHORT_SIDE / short) ** 2 if short > SHORT_SIDE else 0  # the share of a copy
    if factor == 1 and PIXEL_BYTES * math.prod(opened.size) * (1 + reduced) > free_bytes(data) - coefficients:
        factor = 2
    opened.draft(None, (opened.width // factor, opened.height // factor))
    check_memory(coefficients + PIXEL_BYTES * math.prod(opened.size), data)


def find_segments(data: bytes) -> Segments:
    """Raises ImageUnreadable if there is no scan."""
    view, frame, exif = memoryview(data), b"", b""
    head: list[memoryview] = []
    profiles: list[bytes] = []
    for marker, begin, end in head_segments(data):
        body = data[begin + 4 : end]
        if marker == SCAN:
            scans, count, has_end = find_scans(data, begin, is_one_scan(frame, body))
            return Segments(head, scans, count, frame, has_end, exif, joined(profiles))
        if marker == APP1 and body.startswith(b"Exif\0\0"):
            exif = exif or body
        elif marker == APP2 and body.startswith(b"ICC_PROFILE\0"):
            profiles.append(body[12:])
        if is_needed(marker, body):
            head.append(view[begin:end])
        if 0xC0 <= marker <= 0xCF and marker not in TABLES:
            frame = data[begin + 1 : end]
    raise ImageUnreadable("file is broken: there is no picture in it", param="file")


@few_parts
def head_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield each segment's marker, and where it begins and ends, up to the first scan's head."""
    at = len(START)
    while found := MARKER.search(data, at):
        marker, begin = found[0][1], found.start()
        if marker == END[1]:
            return
        if marker in ALONE or marker == START[1]:
            at = found.end()
            continue
        at = begin + 2 + max(2, int.from_bytes(data[begin + 2 : begin + 4], "big"))
        yield marker, begin, at
        if marker == SCAN:
            return


def is_needed(marker: int, body: bytes) -> bool:
    """Whether libjpeg needs it for the pixels: two of the application's segments say what the three or four bands
    are."""
    if marker == APP0:
        return body.startswith(b"JFIF\0") and len(body) >= 14
    if marker == APP14:
        return body.startswith(b"Adobe") and len(body) >= 12
    return 0xC0 <= marker <= 0xCF or marker in TABLES


def is_one_scan(frame: bytes, scan: bytes) -> bool:
    """Whether a scan with this head holds all of the picture."""
    return len(frame) > 8 and frame[0] in (BASELINE, EXTENDED) and bool(scan) and scan[0] == frame[8]


def find_scans(data: bytes, first: int, is_one: bool) -> tuple[list[memoryview], int, bool]:
    """Return the scans, how many they are, and whether the file says where they end. What else is between them is left
    out, and what is behind them."""
    view, parts, count, at = memoryview(data), [], 0, first
    while at < len(data):
        marker = data[at + 1]
        end = at + 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))
        if marker == SCAN:
            count += 1
            found = MARKER.search(data, end)
            end = found.start() if found else end_of_last(data, end)
        if marker == SCAN or marker in TABLES:
            parts.append(view[at:end])
        following = MARKER.search(data, end)
        if following and following[0] == END:
            return parts, count, True
        if not following or is_one or following[0][1] not in AFTER_A_SCAN:
            break
        at = following.start()
    return parts, count, False


def end_of_last(data: bytes, scan: int) -> int:
    """Return where the last scan of a file without an end is over: half a marker is no part of it, and of zeros at the
    end only one can be."""
    written = len(data.rstrip(b"\0"))
    return max(scan, len(data) - 1 if data.endswith(b"\xff") else min(len(data), written + 1))


def joined(profiles: list[bytes]) -> bytes:
    """Return the ICC profile whose numbered parts these are, each behind its number and their count (ICC.1:2022, annex
    B.4); nothing if one is missing."""
    by_number = {part[0]: part for part in reversed(profiles) if len(part) > 2}  # the first of those with a number
    if not by_number or sorted(by_number) != list(range(1, profiles[0][1] + 1)):
        return b""
    return b"".join(by_number[number][2:] for number in sorted(by_number))
