"""python -m tests.abuse.build FOLDER: files that people send to break a service, the same at each run.

Each says what answer it must get: a code of docs/api.md, ACCEPTED, or EITHER where decoders may differ. SECRET stands
in everything that is not pixels; none of it may be stored.
"""

import io
import random
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, ImageCms

ACCEPTED, EITHER = "accepted", "either"
BROKEN, LARGE, SMALL, UNSUPPORTED = "image_unreadable", "image_too_large", "image_too_small", "image_unsupported"
SECRET = b"Kinora-must-not-keep-this"
CAT = Path(__file__).parents[2] / "samples" / "cat.jpg"
HEIC = Path(__file__).parents[1] / "sandbox" / "large" / "of_24_megapixels.heic"

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
GREY, RGB, PALETTE, RGBA = 0, 2, 3, 6
CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, RGBA: 4}


class Case(NamedTuple):
    name: str
    data: bytes
    answer: str


def corpus() -> Iterator[Case]:
    for group in (bombs, cut_short, polyglots, shapes, headers, animations, metadata, profiles, not_pictures):
        for name, data, answer in group():
            yield Case(f"{group.__name__}-{name}", data, answer)


# Parts of files


def saved(picture: Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, format, **options)
    return file.getvalue()


@cache
def cat() -> Image.Image:
    with Image.open(CAT) as opened:
        return opened.resize((240, 160))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def header(width: int, height: int, depth: int = 8, colour: int = RGB, *rest: int) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, *(rest or (0, 0, 0))))


def blank(width: int, height: int, depth: int = 8, colour: int = RGB) -> bytes:
    """The compressed pixels of a black picture, made row by row."""
    row, packer = bytes(1 + (width * depth * CHANNELS[colour] + 7) // 8), zlib.compressobj(1)
    return b"".join([*(packer.compress(row) for _ in range(height)), packer.flush()])


def png(width: int, height: int, depth: int = 8, colour: int = RGB, extra: bytes = b"") -> bytes:
    pixels = chunk(b"IDAT", blank(width, height, depth, colour))
    return PNG + header(width, height, depth, colour) + extra + pixels + chunk(b"IEND", b"")


def with_chunks(*chunks: bytes) -> bytes:
    """The cat as PNG with more chunks behind its header."""
    data = saved(cat(), "PNG")
    return data[:33] + b"".join(chunks) + data[33:]


def segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def with_segments(*segments: bytes) -> bytes:
    """The cat as JPEG with more segments behind its first bytes."""
    data = saved(cat(), "JPEG", quality=90)
    return data[:2] + b"".join(segments) + data[2:]


def patched(data: bytes, start: int, new: bytes) -> bytes:
    return data[:start] + new + data[start + len(new) :]


def zip_file() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        packed.writestr(zipfile.ZipInfo("run.sh"), SECRET)
    return file.getvalue()


# The groups


def bombs() -> Iterator[tuple[str, bytes, str]]:
    yield "png-above-the-limit", png(8000, 8000, 1, GREY), LARGE
    yield "png-of-12-kilobytes-below-it", png(7000, 7000, 1, GREY), ACCEPTED
    yield "png-rgb-below-it", png(7000, 7000), ACCEPTED
    yield "png-grey-16-bits-below-it", png(7000, 7000, 16, GREY), ACCEPTED
    yield "png-clear-colour-below-it", png(7000, 7000, 1, GREY, chunk(b"tRNS", b"\0\0")), ACCEPTED
    yield "png-long-with-alpha", png(16384, 3050, 8, RGBA), ACCEPTED
    yield "png-that-claims-two-thousand-million", PNG + header(2**31 - 1, 2**31 - 1) + chunk(b"IDAT", b""), LARGE
    yield "png-interlaced", PNG + header(7000, 7000, 8, RGB, 0, 0, 1) + chunk(b"IDAT", blank(7000, 7000)), EITHER
    big = zlib.compress(bytes(100_000_000), 9)
    yield "ztxt", with_chunks(chunk(b"zTXt", b"Comment\0\0" + big)), EITHER
    yield "itxt", with_chunks(chunk(b"iTXt", b"Comment\0\1\0\0\0" + big)), EITHER
    yield "iccp", with_chunks(chunk(b"iCCP", b"icc\0\0" + big)), EITHER
    small = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(1_000_000), 9))
    yield "ztxt-hundreds", with_chunks(*[small] * 300), EITHER
    yield "chunks-hundred-thousand", with_chunks(*[chunk(b"tEXt", b"a\0b")] * 100_000), EITHER
    yield "png-of-a-million-parts", with_chunks(chunk(b"tEXt", b"") * 1_000_000), BROKEN
    yield "png-of-a-million-parts-with-pixels", with_chunks(chunk(b"IDAT", b"") * 1_000_000), BROKEN
    yield "jpeg-of-four-million-parts", with_segments(segment(0xFE, b"") * 4_000_000), BROKEN
    webp = saved(cat(), "WEBP")
    yield "webp-of-two-million-parts", webp + b"JUNK\0\0\0\0" * 2_000_000, BROKEN
    scans = saved(Image.new("L", (4000, 4000), 99), "JPEG", progressive=True)
    last = scans[scans.rindex(b"\xff\xda") : -2]
    yield "jpeg-of-60-scans", scans[:-2] + last * 50 + b"\xff\xd9", EITHER
    yield "jpeg-of-thousand-scans", scans[:-2] + last * 1000 + b"\xff\xd9", BROKEN
    small = saved(Image.new("CMYK", (64, 64)), "JPEG", progressive=True)
    claim = patched(small, small.index(b"\xff\xc2") + 5, struct.pack(">HH", 7000, 7000))
    yield "jpeg-progressive-full-colour", claim, LARGE
    yield "jpeg-below-the-limit", saved(Image.new("RGB", (7070, 7070)), "JPEG"), ACCEPTED
    tiny = saved(Image.new("RGB", (64, 64)), "WEBP", lossless=True)
    yield "webp-largest", patched(tiny, 21, struct.pack("<I", 0x3FFF | 0x3FFF << 14)), LARGE
    yield "webp-below-pixel-limit", patched(tiny, 21, struct.pack("<I", 6999 | 6999 << 14)), LARGE
    yield "webp-below-memory-limit", saved(Image.new("RGB", (3700, 3700)), "WEBP", lossless=True, method=0), ACCEPTED
    dot = saved(Image.new("P", (1, 1)), "GIF")
    yield "gif-canvas-largest", patched(dot, 6, b"\xff\xff\xff\xff"), LARGE
    yield "gif-frame-beyond-its-canvas", patched(dot, dot.index(b",\0\0\0\0") + 5, b"\xff\x3f\xff\x0b"), EITHER
    bmp = saved(Image.new("RGB", (64, 64)), "BMP")
    yield "bmp-that-claims-two-thousand-million", patched(bmp, 18, struct.pack("<ii", 2**31 - 1, 2**31 - 1)), LARGE
    yield "bmp-that-claims-a-negative-width", patched(bmp, 18, struct.pack("<ii", -64, 64)), EITHER
    for name, data in {"heic": HEIC.read_bytes(), "avif": saved(cat(), "AVIF", speed=10)}.items():
        size = data.index(b"ispe") + 8
        yield f"{name}-that-claims-thousand-millions", patched(data, size, struct.pack(">II", 65535, 65535)), EITHER
        yield f"{name}-that-claims-50-megapixels", patched(data, size, struct.pack(">II", 8192, 6144)), EITHER


def cut_short() -> Iterator[tuple[str, bytes, str]]:
    whole = {
        "jpeg": CAT.read_bytes(),
        "png": saved(cat().reduce(2), "PNG"),
        "webp": saved(cat(), "WEBP", lossless=True),
        "avif": saved(cat(), "AVIF", quality=80, speed=10),
        "gif": saved(cat().reduce(2), "GIF"),
        "bmp": saved(cat().reduce(4), "BMP"),
        "heic": HEIC.read_bytes(),
    }
    for kind, data in whole.items():
        for end in range(1024, len(data), 1024):
            yield f"{kind}-at-{end:06}", data[:end], BROKEN


def polyglots() -> Iterator[tuple[str, bytes, str]]:
    jpeg, picture, webp = saved(cat(), "JPEG"), saved(cat(), "PNG"), saved(cat(), "WEBP")
    php, html = b"<?php system('id'); // " + SECRET, b"<html><script>alert('" + SECRET + b"')</script></html>"
    pdf = b"%PDF-1.7\n1 0 obj\n<< /OpenAction << /JS (" + SECRET + b") >> >>\nendobj\n%%EOF"
    yield "jpeg-zip", jpeg + zip_file(), ACCEPTED
    yield "png-zip", picture + zip_file(), ACCEPTED
    yield "webp-zip", webp + zip_file(), ACCEPTED
    yield "zip-of-a-jpeg", zip_file() + jpeg, UNSUPPORTED
    yield "png-php-in-text", with_chunks(chunk(b"tEXt", b"Comment\0" + php)), ACCEPTED
    yield "png-php-in-unknown-chunk", with_chunks(chunk(b"kiNo", php)), ACCEPTED
    yield "png-php-as-tail", picture + php, ACCEPTED
    yield "png-php-in-palette", PNG + header(16, 16, 8, PALETTE) + chunk(b"PLTE", (php + b"..")[:48]), BROKEN
    yield "png-php-behind-the-pixels", picture[:-12] + chunk(b"tEXt", b"a\0" + php) + picture[-12:], ACCEPTED
    yield "jpeg-html-in-comment", with_segments(segment(0xFE, html)), ACCEPTED
    yield "jpeg-pdf-in-comment", with_segments(segment(0xFE, pdf)), ACCEPTED
    yield "jpeg-js", with_segments(segment(0xFE, b"*/=alert('" + SECRET + b"');/*")), ACCEPTED
    yield "jpeg-mp4-as-tail", jpeg + b"\0\0\0\x18ftypmp42" + SECRET, ACCEPTED
    yield "pdf-then-jpeg", pdf + jpeg, UNSUPPORTED
    yield "gif-js", b"GIF89a/*" + saved(cat(), "GIF")[8:] + b"*/=1;alert(1)", ACCEPTED
    yield "gif-then-jpeg", saved(cat(), "GIF") + jpeg, ACCEPTED


def shapes() -> Iterator[tuple[str, bytes, str]]:
    yield "1x65535", png(1, 65535), LARGE
    yield "65535x1", png(65535, 1), LARGE
    yield "jpeg-1x65500", saved(Image.new("L", (1, 65500)), "JPEG"), LARGE
    yield "jpeg-65500x1", saved(Image.new("L", (65500, 1)), "JPEG"), LARGE
    yield "16x16384", png(16, 16384), ACCEPTED
    yield "16384x16", png(16384, 16), ACCEPTED
    yield "1x1", png(1, 1), SMALL
    yield "webp-1x1", saved(Image.new("RGB", (1, 1)), "WEBP"), SMALL


def headers() -> Iterator[tuple[str, bytes, str]]:
    jpeg, picture, webp = saved(cat(), "JPEG"), saved(cat(), "PNG"), saved(cat(), "WEBP")
    yield "png-magic-jpeg-body", PNG + jpeg, BROKEN
    yield "jpeg-magic-png-body", b"\xff\xd8\xff" + picture, BROKEN
    yield "webp-magic-jpeg-body", webp[:12] + jpeg, BROKEN
    yield "png-wrong-crc-of-header", patched(picture, 29, b"\0\0\0\0"), BROKEN
    yield "png-wrong-crc-of-pixels", patched(picture, picture.index(b"IDAT") + 3000, b"\0\0\0\0"), BROKEN
    pixels, end = chunk(b"IDAT", blank(64, 64)), chunk(b"IEND", b"")
    for name, lie, answer in (
        ("larger-than-its-pixels", header(6000, 6000), BROKEN),
        ("smaller-than-its-pixels", header(32, 32), EITHER),
        ("zero-wide", header(0, 64), EITHER),
        ("zero-high", header(64, 0), EITHER),
        ("negative", header(0xFFFFFFC0, 64), LARGE),
        ("depth-3", header(64, 64, 3), BROKEN),
        ("depth-255", header(64, 64, 255), BROKEN),
        ("colour-5", header(64, 64, 8, 5), BROKEN),
        ("unknown-compression", header(64, 64, 8, RGB, 9, 0, 0), EITHER),
        ("unknown-filter", header(64, 64, 8, RGB, 0, 9, 0), EITHER),
        ("unknown-interlace", header(64, 64, 8, RGB, 0, 0, 9), EITHER),
        ("palette-missing", header(64, 64, 8, PALETTE), EITHER),
        ("twice", header(64, 64) + header(640, 640), EITHER),
        ("missing", b"", BROKEN),
        ("short", chunk(b"IHDR", b"\0\0\0\x40"), BROKEN),
    ):
        yield f"png-{name}", PNG + lie + pixels + end, answer
    yield "png-without-pixels", PNG + header(64, 64) + end, BROKEN
    yield "png-chunk-longer-than-the-file", PNG + header(64, 64) + b"\x7f\xff\xff\xffIDAT" + pixels, BROKEN
    yield "png-pixels-are-a-zlib-bomb", PNG + header(64, 64) + chunk(b"IDAT", blank(20_000, 1000)) + end, EITHER
    frame = jpeg.index(b"\xff\xc0")
    for name, place, lie, answer in (
        ("zero-wide", 7, b"\0\0", EITHER),
        ("zero-high", 5, b"\0\0", EITHER),
        ("larger-than-its-pixels", 5, struct.pack(">HH", 6000, 6000), EITHER),
        ("65535x65535", 5, b"\xff\xff\xff\xff", LARGE),
        ("precision-12", 4, b"\x0c", BROKEN),
        ("precision-255", 4, b"\xff", BROKEN),
        ("no-components", 9, b"\0", BROKEN),
        ("255-components", 9, b"\xff", BROKEN),
        ("sampling-zero", 11, b"\0", BROKEN),
        ("sampling-15", 11, b"\xff", BROKEN),
        ("unknown-quantization", 12, b"\x09", BROKEN),
        ("arithmetic", 1, b"\xc9", EITHER),
        ("lossless", 1, b"\xc3", BROKEN),
        ("differential", 1, b"\xc5", BROKEN),
    ):
        yield f"jpeg-{name}", patched(jpeg, frame + place, lie), answer
    yield "jpeg-two-frames", jpeg[:frame] + jpeg[frame : frame + 19] + jpeg[frame:], BROKEN
    yield "jpeg-without-tables", jpeg[:2] + jpeg[frame:], BROKEN
    yield "jpeg-endless-segments", JPEG + segment(0xE0, b"") * 200_000, BROKEN
    yield "webp-longer-than-it-is", patched(webp, 4, b"\xff\xff\xff\xff"), EITHER
    yield "webp-length-zero", patched(webp, 4, b"\0\0\0\0"), ACCEPTED
    yield "webp-chunk-too-long", patched(webp, 16, b"\xf0\xff\xff\xff"), ACCEPTED


def animations() -> Iterator[tuple[str, bytes, str]]:
    frames = [Image.new("RGB", (64, 64), (shade % 256, shade // 256, 9)) for shade in range(1, 600)]
    apng = saved(cat(), "PNG", save_all=True, append_images=[cat().rotate(angle) for angle in range(1, 40)])
    yield "apng", apng, ACCEPTED
    yield "apng-many-frames", saved(frames[0], "PNG", save_all=True, append_images=frames[1:]), ACCEPTED
    control = apng.index(b"acTL") - 4
    yield "apng-claims-millions", patched(apng, control, chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))), EITHER
    yield "apng-claims-none", patched(apng, control, chunk(b"acTL", struct.pack(">II", 0, 0))), EITHER
    webp = saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], duration=1)
    yield "webp-many-frames", webp, ACCEPTED
    yield "webp-huge-canvas", patched(webp, 24, (2**24 - 1).to_bytes(3, "little") * 2), LARGE
    yield "webp-canvas-of-49-megapixels", patched(webp, 24, (6999).to_bytes(3, "little") * 2), LARGE
    yield "webp-canvas-larger-than-its-frames", patched(webp, 24, (3000).to_bytes(3, "little") * 2), EITHER
    yield "webp-canvas-smaller-than-its-frames", patched(webp, 24, (19).to_bytes(3, "little") * 2), EITHER
    mpo = saved(cat(), "MPO", save_all=True, append_images=[cat()] * 3)
    yield "mpo", mpo, ACCEPTED
    yield "mpo-cut-after-the-first", mpo[: len(mpo) // 4 + 2000], ACCEPTED
    index = mpo.index(b"MPF\0")
    yield "mpo-nonsense-index", patched(mpo, index + 4, b"\xff" * 60), EITHER


def metadata() -> Iterator[tuple[str, bytes, str]]:
    def app1(body: bytes) -> bytes:
        return with_segments(segment(0xE1, b"Exif\0\0" + body))

    def table(*entries: tuple[int, int, int, bytes], after: int = 0) -> bytes:
        """One directory of tags: (tag, type, count, value)."""
        packed = b"".join(struct.pack("<HHI", tag, kind, count) + value for tag, kind, count, value in entries)
        return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + packed + struct.pack("<I", after)

    full = Image.Exif()
    full[0x010E] = full[0x9286] = SECRET.decode()
    full.get_ifd(0x8825).update({1: "N", 2: (51.0, 30.0, 0.5), 3: "W", 4: (0.0, 7.0, 0.5), 29: SECRET.decode()})
    gps = full.tobytes()
    for format in ("JPEG", "PNG", "WEBP"):
        yield f"gps-{format.lower()}", saved(cat(), format, exif=gps, xmp=SECRET), ACCEPTED
    yield "exif-of-64-kilobytes", app1(table() + SECRET * 2600), ACCEPTED
    yield "exif-two-hundred-times", with_segments(*[segment(0xE1, b"Exif\0\0" + SECRET * 2600)] * 200), EITHER
    yield "exif-of-10-megabytes-in-png", with_chunks(chunk(b"eXIf", table() + SECRET * 400_000)), ACCEPTED
    yield "exif-next-is-itself", app1(table((0x0112, 3, 1, b"\1\0\0\0"), after=8)), ACCEPTED
    yield "exif-part-is-itself", app1(table((0x8769, 4, 1, b"\x08\0\0\0"), (0x8825, 4, 1, b"\x08\0\0\0"))), ACCEPTED
    yield "exif-beyond-the-end", app1(table((0x010E, 2, 0xFFFFFFFF, b"\xff\xff\xff\xff"))), ACCEPTED
    for name, kind, count, value in (
        ("0", 3, 1, b"\0\0\0\0"),
        ("99", 3, 1, b"c\0\0\0"),
        ("text", 2, 4, b"six\0"),
        ("float", 11, 1, b"\0\0\xc0\x7f"),
        ("zero-divided", 5, 1, b"\x08\0\0\0"),
        ("unknown-type", 99, 1, b"\6\0\0\0"),
        ("thousand-values", 3, 1000, b"\x08\0\0\0"),
        ("no-value", 3, 0, b"\0\0\0\0"),
    ):
        yield f"orientation-{name}", app1(table((0x0112, kind, count, value))), ACCEPTED
    yield (
        "sixty-thousand-tags",
        app1(b"II*\0\x08\0\0\0\xff\xff" + struct.pack("<HHII", 0x0112, 3, 1, 6) * 5000),
        ACCEPTED,
    )
    billions = b'<!DOCTYPE l [<!ENTITY a "lol">' + b"".join(
        b'<!ENTITY %c "%s">' % (98 + n, b"&%c;" % (97 + n) * 10) for n in range(9)
    )
    yield (
        "xmp-xml-bomb",
        with_segments(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + billions + b"]><l>&j;</l>")),
        ACCEPTED,
    )
    yield "photoshop-nonsense", with_segments(segment(0xED, b"Photoshop 3.0\x008BIM" + b"\xff" * 500)), ACCEPTED
    yield "adobe-nonsense", with_segments(segment(0xEE, b"Adobe\xff\xff\xff\xff\xff\xff\xff")), EITHER


def profiles() -> Iterator[tuple[str, bytes, str]]:
    made_now = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    srgb = patched(made_now, 24, bytes(12))  # where its date stands
    chance = random.Random(3)
    nonsense = {
        "cut-short": srgb[:200],
        "header-alone": srgb[:128],
        "for-cmyk": patched(srgb, 16, b"CMYK"),
        "for-nothing-known": patched(srgb, 16, b"????"),
        "for-lab": patched(srgb, 16, b"Lab "),
        "of-a-link": patched(srgb, 12, b"link"),
        "four-thousand-million-tags": patched(srgb, 128, b"\xff\xff\xff\xff"),
        "hundred-tags": patched(srgb, 128, b"\0\0\0\x64"),
        "tags-beyond-the-end": patched(srgb, 132, struct.pack(">4sII", b"rTRC", 0x7FFFFFF0, 0x7FFFFFF0)),
        "claims-four-gigabytes": patched(srgb, 0, b"\xff\xff\xff\xff"),
        "curve-of-four-thousand-million": srgb.replace(b"para\0\0\0\0\0\3", b"curv\0\0\0\0\xff\xff"),
        "noise": chance.randbytes(3000),
        "with-a-secret": patched(srgb, len(srgb) - len(SECRET), SECRET),
    }
    for name, profile in nonsense.items():
        for format in ("JPEG", "PNG", "WEBP"):
            yield f"{name}-{format.lower()}", saved(cat(), format, icc_profile=profile), ACCEPTED
    parts = [segment(0xE2, b"ICC_PROFILE\0" + bytes([number, 255]) + SECRET) for number in range(1, 255)]
    yield "parts-of-which-one-is-missing", with_segments(*parts), ACCEPTED
    yield "part-zero-of-zero", with_segments(segment(0xE2, b"ICC_PROFILE\0\0\0" + SECRET)), ACCEPTED
    yield "not-compressed", with_chunks(chunk(b"iCCP", b"icc\0\0" + srgb)), EITHER
    yield "unknown-compression", with_chunks(chunk(b"iCCP", b"icc\0\7" + zlib.compress(srgb))), EITHER


def not_pictures() -> Iterator[tuple[str, bytes, str]]:
    yield "empty.jpg", b"", "file_missing"
    yield "one-byte.jpg", b"\xff", UNSUPPORTED
    yield "zeros.png", bytes(100_000), UNSUPPORTED
    for format in ["BMP", "GIF", "AVIF"]:
        yield f"{format.lower()}.jpg", saved(cat(), format), ACCEPTED
    for format in ["TIFF", "ICO", "PPM", "TGA", "PCX", "EPS", "DDS", "SGI", "JPEG2000"]:
        yield f"{format.lower()}.jpg", saved(cat(), format), UNSUPPORTED
    texts = {
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/><script>1</script></svg>',
        "xml-bomb.svg": b'<?xml version="1.0"?><!DOCTYPE s [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><svg>&b;</svg>',
        "xxe.svg": b'<!DOCTYPE s [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg>&x;</svg>',
        "ps": b"%!PS\n(/etc/passwd) (r) file 1000 string readstring pop =\n",
        "ffconcat.jpg": b"ffconcat version 1.0\nfile cat.jpg\nduration 1\nfile /etc/passwd\n",
        "hls.jpg": b"#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
        "mvg.jpg": b"push graphic-context\nfill 'url(https://example.com/x.jpg\"|ls \"-la)'\npop graphic-context\n",
        "html.jpg": b"<!doctype html><script>alert(1)</script>",
        "shell.jpg": b"#!/bin/sh\nid\n",
        "psd.jpg": b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 64, 64, 8, 3) + bytes(100),
        "mp4.jpg": b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(200),
        "wave.webp": b"RIFF\x24\0\0\0WAVEfmt " + bytes(40),
        "avi.webp": b"RIFF\x24\0\0\0AVI LIST" + bytes(40),
        "elf.jpg": b"\x7fELF\2\1\1" + bytes(100),
        "zip.jpg": zip_file(),
        "gzip.jpg": b"\x1f\x8b\x08" + bytes(20),
    }
    for name, data in texts.items():
        yield name, data, UNSUPPORTED
    magics = {
        "jpeg": b"\xff\xd8\xff\xe0",
        "png": PNG,
        "png-header": PNG + header(64, 64),
        "webp": b"RIFF\xf8\1\0\0WEBPVP8 ",
        "heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        "avif": b"\0\0\0\x18ftypavif\0\0\0\0mif1avif",
        "gif": b"GIF89a\xf0\0\xa0\0\xf7\0\0",
        "bmp": b"BM" + bytes(12) + b"\x28\0\0\0",
    }
    for name, magic in magics.items():
        for seed in range(4):
            yield f"noise-{name}-{seed}", magic + random.Random(seed).randbytes(500), EITHER


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for case in corpus():
        (folder / case.name).write_bytes(case.data)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
