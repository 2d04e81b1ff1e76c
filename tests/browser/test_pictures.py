"""A picture becomes what a real Chromium shows of it: its colours, its turn, whatever surrounds its pixels."""

import base64
import random
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, Page

from core.errors import ImageUnreadable
from sandbox.pictures import read_picture
from sandbox.png import FORMS
from tests.sandbox import devices
from tests.sandbox.files import (
    CHANNELS,
    GREY,
    PALETTE,
    RGB,
    WIDE,
    chrm,
    chunk,
    cicp,
    gama,
    iccp,
    photo,
    png_from,
    saved,
    swatches,
    with_codes,
)

Pixels = NDArray[np.uint8]
Show = Callable[[bytes], Pixels | None]

# What a canvas in sRGB gets of a picture; black lies under it.
SHOW = """async url => {
  const picture = new Image();
  picture.src = url;
  try { await picture.decode(); } catch { return null; }
  const canvas = document.createElement("canvas");
  canvas.width = picture.naturalWidth;
  canvas.height = picture.naturalHeight;
  const context = canvas.getContext("2d");
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(picture, 0, 0);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
  return [canvas.height, canvas.width, Array.from(pixels)];
}"""
TYPES = {"\xff": "jpeg", "\x89": "png", "R": "webp", "G": "gif", "B": "bmp", "\0": "avif"}

COLOURS = [(200, 120, 60), (64, 64, 64), (128, 128, 128), (16, 16, 16), (255, 0, 0), (0, 200, 90), (3, 2, 1)]
P3_NUMBERS = (0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060)
SRGB_NUMBERS = (0.3127, 0.3290, 0.640, 0.330, 0.300, 0.600, 0.150, 0.060)
SRGB_CHUNK = chunk(b"sRGB", b"\0")


@pytest.fixture(scope="module")
def show(browser: Browser) -> Iterator[Show]:
    """What Chromium shows of a file; None of one that it refuses."""
    page = browser.new_page()
    yield lambda data: shown(page, data)
    page.close()


def shown(page: Page, data: bytes) -> Pixels | None:
    url = f"data:image/{TYPES[chr(data[0])]};base64,{base64.b64encode(data).decode()}"
    found = page.evaluate(SHOW, url)
    if found is None:
        return None
    height, width, values = found
    return np.array(values, np.uint8).reshape(height, width, 4)[..., :3]


def off(show: Show, data: bytes) -> int:
    """By how many levels of 255 the worst pixel is off."""
    expected = show(data)
    assert expected is not None, "Chromium refuses it"
    made = np.asarray(read_picture(data, 50))
    assert made.shape == expected.shape
    return int(np.abs(made.astype(int) - expected).max())


# Colours


@pytest.mark.parametrize("transfer", range(19))
def test_each_transfer_function_of_cicp_is_followed(show: Show, transfer: int) -> None:
    assert off(show, swatches(COLOURS, cicp(1, transfer))) <= 1


@pytest.mark.parametrize("primaries", range(23))
def test_the_primaries_of_cicp_are_followed(show: Show, primaries: int) -> None:
    assert off(show, swatches(COLOURS, cicp(primaries, 13))) <= 1


@pytest.mark.parametrize("codes", [(9, 16), (9, 18), (12, 16), (1, 16), (1, 18)])
def test_hdr_is_tone_mapped(show: Show, codes: tuple[int, int]) -> None:
    chance = random.Random(1)
    colours = [(grey, grey, grey) for grey in range(0, 256, 5)] + [
        tuple(chance.choices(range(256), k=3)) for _ in range(100)
    ]
    assert off(show, swatches(colours, cicp(*codes))) <= 2


PRECEDENCE = {
    "cICP before iCCP": [iccp(WIDE), cicp(1, 13)],
    "cICP before sRGB": [SRGB_CHUNK, cicp(12, 13)],
    "cICP before gAMA": [gama(1), cicp(12, 13)],
    "iCCP before sRGB": [SRGB_CHUNK, iccp(WIDE)],
    "iCCP before gAMA": [gama(1), iccp(WIDE)],
    "sRGB before gAMA": [gama(1), SRGB_CHUNK],
    "sRGB before cHRM": [chrm(*P3_NUMBERS), SRGB_CHUNK],
    "the first of two": [cicp(12, 13), cicp(1, 13)],
    "iCCP after a cICP that says nothing": [cicp(2, 2), iccp(WIDE)],
    "iCCP after an unknown cICP": [cicp(12, 9), iccp(WIDE)],
    "iCCP after a cICP of another matrix": [chunk(b"cICP", b"\x0c\x0d\0\0"), iccp(WIDE)],
    "gAMA after a broken iCCP": [iccp(b"nonsense"), gama(1)],
    "sRGB after a broken iCCP": [iccp(b"nonsense"), gama(1), SRGB_CHUNK],
    "gAMA after an sRGB of no intent": [chunk(b"sRGB", b"\x09"), gama(1)],
}
NUMBERS = {
    "linear": [gama(1)],
    "the usual gamma alone": [gama(0.45455)],
    "the usual gamma with primaries": [gama(0.45455), chrm(*SRGB_NUMBERS)],
    "a Macintosh of old": [gama(0.55555)],
    "no gamma": [gama(0)],
    "a huge gamma": [gama(40_000)],
    "a tiny gamma": [gama(0.00001)],
    "primaries alone": [chrm(*P3_NUMBERS)],
    "both": [gama(1), chrm(*P3_NUMBERS)],
    "primaries on one line": [gama(1), chrm(*[0.0] * 8)],
    "damaged": [gama(1)[:-1] + b"\0"],
}


@pytest.mark.parametrize("name", PRECEDENCE)
def test_what_says_most_about_colours_counts(show: Show, name: str) -> None:
    assert off(show, swatches(COLOURS, *PRECEDENCE[name])) <= 1


@pytest.mark.parametrize("name", NUMBERS)
def test_colours_in_numbers_are_followed(show: Show, name: str) -> None:
    assert off(show, swatches(COLOURS, *NUMBERS[name])) <= 1


@pytest.mark.parametrize("codes", [(9, 16), (9, 18), (12, 13), (1, 8), (2, 2)])
@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_codes_in_a_profile_are_followed(show: Show, format: str, codes: tuple[int, int]) -> None:
    options: dict[str, Any] = {"quality": 100, "subsampling": 0} if format == "JPEG" else {}
    assert off(show, saved(opened_swatches(), format, icc_profile=with_codes(*codes), **options)) <= 2


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_a_profile_is_followed_in_every_format(show: Show, format: str) -> None:
    exact: dict[str, dict[str, Any]] = {"WEBP": {"lossless": True}, "PNG": {}}
    options = exact.get(format, {"quality": 100, "subsampling": "4:4:4"})
    assert off(show, saved(opened_swatches(), format, icc_profile=WIDE, **options)) <= 3


@pytest.mark.parametrize("codes", [(1, 13), (1, 1), (12, 13), (12, 1), (9, 14), (1, 8), (9, 16), (9, 18), (2, 2)])
def test_the_codes_of_avif_are_followed(show: Show, codes: tuple[int, int]) -> None:
    data = bytearray(saved(opened_swatches(), "AVIF", quality=100, subsampling="4:4:4"))
    at = data.index(b"colrnclx") + 8
    data[at : at + 4] = b"\0%c\0%c" % codes
    assert off(show, bytes(data)) <= 2


def opened_swatches() -> Image.Image:
    return Image.open(BytesIO(swatches(COLOURS)))


# Every kind of PNG


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("depth", "kind"), FORMS)
def test_every_depth_and_kind_of_png_is_read(show: Show, depth: int, kind: int, interlaced: bool) -> None:
    """Alpha over black may be rounded otherwise."""
    values, palette = noise(kind, depth)
    assert off(show, png_from(values, kind, depth, *palette, interlaced=interlaced)) <= 2


@pytest.mark.parametrize(("depth", "kind"), [form for form in FORMS if form[1] in (GREY, RGB)])
def test_a_clear_colour_is_told_from_the_next_one(show: Show, depth: int, kind: int) -> None:
    values, _ = noise(kind, depth)
    colour = values[3, 3]
    values[::2, 5] = colour
    values[1::2, 6] = colour
    values[1::2, 6, 0] ^= 1
    clear = chunk(b"tRNS", colour.astype(">u2").tobytes())
    assert off(show, png_from(values, kind, depth, clear)) <= 1


def noise(kind: int, depth: int) -> tuple[NDArray[np.int64], list[bytes]]:
    """Values of every size, and the palette if the kind has one."""
    chance = np.random.default_rng(kind * 100 + depth)
    most = (1 << depth) - 1
    values = chance.integers(0, most, (19, 21, CHANNELS[kind]), endpoint=True)
    values[chance.random(values.shape) < 0.2] = most
    if kind != PALETTE:
        return values, []
    colours = chunk(b"PLTE", chance.integers(0, 256, 3 * (most + 1)).astype("u1").tobytes())
    return values, [colours, chunk(b"tRNS", chance.integers(0, 256, most // 2 + 1).astype("u1").tobytes())]


# What devices write

DEVICES = dict(devices.pictures())
WHOLE = saved(photo(), "WEBP", lossless=True, icc_profile=WIDE)
NOT_SHOWN = {
    "jpeg-begins-twice": saved(photo(), "JPEG", quality=95),
    "webp-said-to-be-longer": WHOLE,
    "webp-with-half-its-exif": WHOLE,
    "webp-with-half-its-xmp": WHOLE,
}
"""By Chromium, though all pixels are there: those of which file."""
WITHOUT_END = {"jpeg-without-end", "jpeg-with-half-an-end"}
"""Of which Chromium shows nothing, because they are so small."""
REFUSED = {"jpeg-lines-counted-at-the-end"}
"""By both."""


@pytest.mark.parametrize("name", sorted(DEVICES.keys() - NOT_SHOWN.keys() - WITHOUT_END - REFUSED))
def test_what_a_device_writes_becomes_what_chromium_shows(show: Show, name: str) -> None:
    assert off(show, DEVICES[name]) <= 3


@pytest.mark.parametrize("name", sorted(NOT_SHOWN))
def test_what_chromium_does_not_show_is_made_if_all_its_pixels_are_there(show: Show, name: str) -> None:
    assert show(DEVICES[name]) is None
    assert (np.asarray(read_picture(DEVICES[name], 50)) == np.asarray(read_picture(NOT_SHOWN[name], 50))).all()


@pytest.mark.parametrize("name", sorted(WITHOUT_END))
def test_a_jpeg_without_an_end_is_the_same_as_with_it(name: str) -> None:
    whole = read_picture(saved(photo(), "JPEG", quality=95), 50)
    assert (np.asarray(read_picture(DEVICES[name], 50)) == np.asarray(whole)).all()


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_no_decoder_knows_is_refused_as_by_chromium(show: Show, name: str) -> None:
    assert show(DEVICES[name]) is None
    with pytest.raises(ImageUnreadable):
        read_picture(DEVICES[name], 50)
