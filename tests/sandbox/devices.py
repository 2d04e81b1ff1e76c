"""What cameras, phones, webcams and programs write that no specification has: pictures that browsers show all the same.

python -m tests.sandbox.devices FOLDER writes them."""

import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.sandbox.files import (
    GREY,
    PALETTE,
    RGB,
    RGBA,
    WIDE,
    after_start,
    chunk,
    exif,
    gama,
    photo,
    plain,
    png,
    saved,
    segment,
)

END = b"\xff\xd9"
SIGNATURE = b"\x89PNG\r\n\x1a\n"
Named = Iterator[tuple[str, bytes]]


def pictures() -> Named:
    for format in (jpegs, pngs, webps, gifs, bmps):
        for name, data in format():
            yield f"{format.__name__[:-1]}-{name}", data


def jpegs() -> Named:
    jpeg = saved(photo(), "JPEG", quality=95)
    yield "with-a-makers-trailer", jpeg + b"\0\0\1\xa0SEFH" + bytes(range(200)) + b"\x1c\0\0\0SEFT"
    yield "with-a-video-behind-it", jpeg + struct.pack(">I4s4sI", 16, b"ftyp", b"mp42", 0) + b"\xff\xda\xff\xc4" * 50
    yield "twice-in-one-file", jpeg + saved(plain("blue"), "JPEG")
    yield "filled-up-with-ff", jpeg + b"\xff" * 100
    yield "filled-up-with-zeros", jpeg + bytes(4096)
    yield "begins-twice", jpeg[:2] + jpeg
    yield "ends-twice", jpeg + END
    yield "without-end", jpeg[:-2]
    yield "without-end-filled-up", jpeg[:-2] + bytes(64)
    yield "without-end-with-a-trailer", jpeg[:-2] + b"SEFH" + b"\xff\xc4\0\x05abc\xff\xda\xff\xff" + bytes(100)
    yield "with-half-an-end", jpeg[:-1]
    yield "progressive-without-end", saved(photo(), "JPEG", quality=95, progressive=True)[:-2]
    yield "fill-bytes-before-markers", jpeg.replace(b"\xff\xdb", b"\xff\xff\xff\xff\xdb")
    yield "junk-between-segments", jpeg.replace(b"\xff\xdb", b"junk\0\xff\0\xff\xdb", 1)
    for name, marker in (
        ("app0", 0xE0),
        ("exif", 0xE1),
        ("icc", 0xE2),
        ("photoshop", 0xED),
        ("adobe", 0xEE),
        ("comment", 0xFE),
    ):
        yield f"empty-{name}", after_start(jpeg, segment(marker, b""))
        yield f"short-{name}", after_start(jpeg, segment(marker, b"Ad"))
    yield "broken-exif", saved(photo(), "JPEG", quality=95, exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + bytes(20))
    yield "exif-of-nothing", saved(photo(), "JPEG", quality=95, exif=b"Exif\0\0")
    yield "exif-twice", after_start(jpeg, segment(0xE1, exif(6)), segment(0xE1, exif(3)))
    yield "exif-behind-the-tables", jpeg.replace(b"\xff\xc0", segment(0xE1, exif(8)) + b"\xff\xc0", 1)
    yield "broken-photoshop", after_start(jpeg, segment(0xED, b"Photoshop 3.0\x008BIM\x04\x04\0\0\xff\xff\xff\xff"))
    yield "broken-xmp", after_start(jpeg, segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta"))
    yield "broken-second-picture", after_start(jpeg, segment(0xE2, b"MPF\0MM\0*\0\0\0\x08\0\xff"))
    half = len(WIDE) // 2
    parts = [(1, WIDE[:half]), (2, WIDE[half:])]
    icc = [segment(0xE2, b"ICC_PROFILE\0" + bytes([number, 2]) + part) for number, part in parts]
    yield "profile-in-two-parts", after_start(jpeg, *icc)
    alone = segment(0xE2, b"ICC_PROFILE\0\1\2" + WIDE)
    yield "profile-whose-second-part-is-lost", after_start(jpeg, alone)
    yield "profile-with-a-number-twice", after_start(jpeg, *icc, segment(0xE2, b"ICC_PROFILE\0\1\2junk"))
    yield "profile-in-the-wrong-order", after_start(jpeg, *reversed(icc))
    yield "profile-of-which-a-part-is-lost", after_start(jpeg, icc[1])
    yield "profile-numbered-from-nothing", after_start(jpeg, segment(0xE2, b"ICC_PROFILE\0\0\0" + WIDE))
    yield "of-a-webcam-without-tables", without_tables(after_start(jpeg, segment(0xE0, b"AVI1\0")))
    yield (
        "restarts-numbered-wrong",
        saved(photo(), "JPEG", quality=95, restart_marker_blocks=1).replace(b"\xff\xd1", b"\xff\xd3"),
    )
    yield "lines-counted-at-the-end", counted_late(jpeg)
    yield "thumbnail-in-jfif", jpeg[:2] + segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\x02\x02" + bytes(12)) + jpeg[20:]
    yield "bands-by-letters", by_letters(saved(photo(), "JPEG", quality=95, subsampling=0))
    yield "grey-by-adobe", after_start(saved(photo().convert("L"), "JPEG"), segment(0xEE, b"Adobe\0d\0\0\0\0\1"))
    yield "cmyk-by-adobe", saved(photo().convert("CMYK"), "JPEG", quality=95)
    yield "rgb-by-adobe", saved(photo(), "JPEG", quality=95, keep_rgb=True)


def without_tables(jpeg: bytes) -> bytes:
    while (at := jpeg.find(b"\xff\xc4")) >= 0:
        (length,) = struct.unpack(">H", jpeg[at + 2 : at + 4])
        jpeg = jpeg[:at] + jpeg[at + 2 + length :]
    return jpeg


def counted_late(jpeg: bytes) -> bytes:
    """With no height in its head, and the number of lines behind the scan."""
    at = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:at] + b"\0\0" + jpeg[at + 2 : -2] + segment(0xDC, jpeg[at : at + 2]) + END


def by_letters(jpeg: bytes) -> bytes:
    """Without a word of JFIF, whose bands are called Y, C and c."""
    jpeg = jpeg[:2] + jpeg[20:]
    frame, scan = jpeg.index(b"\xff\xc0") + 10, jpeg.index(b"\xff\xda") + 5
    changed = bytearray(jpeg)
    for band, letter in enumerate(b"YCc"):
        changed[frame + 3 * band] = changed[scan + 2 * band] = letter
    return bytes(changed)


def pngs() -> Named:
    whole = saved(photo(), "PNG")
    head, rest = whole[:33], whole[33:]
    (length,) = struct.unpack(">I", rest[:4])
    stream, end = rest[8 : 8 + length], chunk(b"IEND", b"")
    yield "without-end", head + chunk(b"IDAT", stream)
    yield "with-a-broken-end", whole[:-1] + b"\0"
    yield "with-junk-behind-it", whole + b"\0" * 300
    yield "in-pieces-of-a-byte", head + b"".join(chunk(b"IDAT", bytes([byte])) for byte in stream) + end
    yield "with-empty-pieces", head + chunk(b"IDAT", b"") + chunk(b"IDAT", stream) + chunk(b"IDAT", b"") + end
    yield "with-more-behind-the-pixels", head + chunk(b"IDAT", stream + b"more") + end
    yield "with-a-wrong-adler", head + chunk(b"IDAT", stream[:-4] + b"\0\1\2\3") + end
    yield "without-adler", head + chunk(b"IDAT", stream[:-4]) + end
    yield (
        "with-more-pixels-than-it-needs",
        head + chunk(b"IDAT", zlib.compress(zlib.decompress(stream) + bytes(500))) + end,
    )
    sorts = (b"tEXt", b"zTXt", b"iTXt", b"pHYs", b"tIME", b"bKGD", b"hIST", b"sPLT", b"eXIf", b"cHRM", b"gAMA", b"sRGB")
    for kind in (*sorts, b"iCCP", b"cICP", b"acTL", b"tRNS", b"iDOT", b"prVt"):
        yield f"short-{kind.decode()}", head + chunk(kind, b"\xff") + rest
        yield f"wrong-sum-of-{kind.decode()}", head + chunk(kind, b"\xff" * 9)[:-1] + b"\0" + rest
    bomb = zlib.compress(bytes(3_000_000))
    yield "text-that-inflates", head + chunk(b"zTXt", b"workflow\0\0" + bomb) + rest
    yield "profile-that-inflates", head + chunk(b"iCCP", b"a name\0\0" + bomb) + rest
    yield "profile-without-end", head + chunk(b"iCCP", b"a name\0\0" + zlib.compress(WIDE)[:-9]) + rest
    yield "upright-by-exif", head + chunk(b"eXIf", exif(6)[6:]) + rest
    yield "with-a-palette-in-colour", head + chunk(b"PLTE", bytes(range(48))) + rest
    row = bytes([0, 1, 2, 3] * 8)
    yield "palette-too-short", png(PALETTE, 8, (32, 16), row, chunk(b"PLTE", bytes([200, 0, 0, 0, 200, 0])))
    few = chunk(b"PLTE", bytes([200, 0, 0, 0, 200, 0, 0, 0, 200, 90, 90, 90]))
    yield "more-clear-than-colours", png(PALETTE, 8, (32, 16), row, few, chunk(b"tRNS", bytes([255, 128, 0, 60, 1, 2])))
    long = chunk(b"tRNS", bytes(range(256)) + bytes(40))
    colours = chunk(b"PLTE", bytes(range(256)) * 3)
    yield "more-clear-than-there-can-be", png(PALETTE, 8, (32, 16), bytes(range(0, 256, 8)), colours, long)
    yield "clear-in-rgba", png(RGBA, 8, (16, 16), bytes([9, 99, 199, 200]) * 16, chunk(b"tRNS", bytes(6)))
    yield "clear-grey-of-4-bits", png(GREY, 4, (32, 16), bytes([0x5A] * 16), chunk(b"tRNS", b"\0\x05"))
    yield (
        "clear-beyond-its-bits",
        png(RGB, 8, (16, 16), bytes([1, 2, 3]) * 16, chunk(b"tRNS", bytes([9, 1, 9, 2, 9, 3]))),
    )
    yield "exif-behind-the-pixels", head + chunk(b"IDAT", stream) + chunk(b"eXIf", exif(6)[6:]) + end
    yield "gamma-a-little-off", head + gama(0.45) + rest
    yield "gamma-behind-the-pixels", head + chunk(b"IDAT", stream) + gama(1) + end
    frame = struct.pack(">IIIIIHHBB", 0, 48, 32, 0, 0, 1, 10, 0, 0)
    moves = chunk(b"acTL", struct.pack(">II", 9, 0)) + chunk(b"fcTL", frame)
    yield "animation-of-one-frame", head + moves + rest
    yield "animation-with-a-broken-frame", head + moves + rest[:-12] + chunk(b"fdAT", b"\0\0\0\1junk") + end


def webps() -> Named:
    still = saved(photo(), "WEBP", lossless=True)
    full = saved(photo(), "WEBP", lossless=True, icc_profile=WIDE, exif=exif(1), xmp=b"<x/>")
    yield "with-junk-behind-it", still + b"junk" * 9
    yield "said-to-be-longer", full[:4] + struct.pack("<I", len(full) + 1000) + full[8:]
    yield "with-half-its-exif", full[: full.index(b"EXIF") + 14]
    yield "with-half-its-xmp", full[: full.index(b"XMP ") + 9]
    yield "with-a-broken-profile", saved(photo(), "WEBP", lossless=True, icc_profile=b"nonsense")
    yield "of-losses", saved(photo(), "WEBP", quality=90)
    yield "of-losses-with-alpha", saved(photo().convert("RGBA"), "WEBP", quality=90)
    frames = [plain("blue", size=(48, 32))]
    yield "animated", saved(photo(), "WEBP", lossless=True, save_all=True, append_images=frames, duration=100)


def gifs() -> Named:
    few = photo().quantize(64)
    gif = saved(few, "GIF")
    yield "plain", gif
    yield "without-end", gif[:-1]
    yield "interlaced", saved(few, "GIF", interlace=True)
    yield "animated", saved(few, "GIF", save_all=True, append_images=[plain("blue", size=(48, 32))], duration=100)
    yield "with-a-clear-colour", saved(few, "GIF", transparency=5)
    wide = bytearray(gif)
    wide[6:10] = struct.pack("<HH", 80, 60)
    yield "smaller-than-its-canvas", bytes(wide)
    yield "with-a-broken-comment", gif.replace(b",\0\0\0\0", b"!\xfe\x02ab\0,\0\0\0\0", 1)


def bmps() -> Named:
    yield "plain", saved(photo(), "BMP")
    yield "of-a-palette", saved(photo().quantize(16), "BMP")
    yield "grey", saved(photo().convert("L"), "BMP")
    yield "black-and-white", saved(photo().convert("1"), "BMP")
    rows = bytearray(saved(photo(), "BMP"))
    rows[22:26] = struct.pack("<i", -32)
    yield "from-the-top", bytes(rows)
    yield "with-a-profile", with_profile(rows)
    pixels = (np.asarray(photo()).astype("<u2") >> 3) @ np.array([1 << 10, 1 << 5, 1], "<u2")
    body = np.ascontiguousarray(pixels[::-1].astype("<u2")).tobytes()
    yield (
        "of-16-bits",
        struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 54 + len(body), 0, 0, 54, 40, 48, 32, 1, 16, 0, 0, 0, 0, 0, 0) + body,
    )


def with_profile(bmp: bytes) -> bytes:
    """With a header of the longest kind, and a profile at the end of the file."""
    size, pixels = bmp[18:26], bmp[54:]
    masks = struct.pack("<IIII4s36xIIIIIII", 0, 0, 0, 0, b"DEBM", 0, 0, 0, 4, 124 + len(pixels), len(WIDE), 0)
    header = struct.pack("<I8sHHIIiiII", 124, size, 1, 24, 0, len(pixels), 0, 0, 0, 0) + masks
    return struct.pack("<2sIHHI", b"BM", 138 + len(pixels) + len(WIDE), 0, 0, 138) + header + pixels + WIDE


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in pictures():
        (folder / f"{name.replace('-', '_', 1)}").write_bytes(data)


if __name__ == "__main__":
    main()
