"""What comes out of users' files: right pixels for good ones, Kinora's own errors for all others."""

import io
import random
import re
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from core.errors import ImageTooLarge, ImageTooSmall, ImageUnreadable, ImageUnsupported, InvalidRequest
from core.picture import size_of
from sandbox.pictures import read_picture
from sandbox.webp import webp_size
from tests.sandbox.files import (
    LINEAR_GREY,
    P3,
    SRGB,
    WIDE,
    chunk,
    cyan_is_grey,
    exif,
    gradient,
    photo,
    plain,
    png,
    saved,
)

Pixels = NDArray[np.uint8]
CASES = Path(__file__).parent / "cases"
HEIC = Path(__file__).parent / "heic"


def read(data: bytes, max_megapixels: int = 50) -> Pixels:
    picture = read_picture(data, max_megapixels)
    assert picture.mode == "RGB"
    return np.asarray(picture)


# Which files are taken


@pytest.mark.parametrize("options", [{"format": "JPEG"}, {"format": "PNG"}, {"format": "WEBP"}, {"format": "MPO"}])
def test_jpeg_png_webp_and_mpo_are_read(options: dict[str, str]) -> None:
    assert np.abs(read(saved(photo(), quality=95, **options)) - np.asarray(photo(), float)).mean() < 4


def test_of_a_phones_two_pictures_in_one_jpeg_the_first_is_read() -> None:
    data = saved(plain("red"), "MPO", save_all=True, append_images=[plain("blue")])
    assert read(data)[0, 0].tolist() == [254, 0, 0]


@pytest.mark.parametrize("format", ["AVIF", "GIF", "BMP"])
def test_what_else_every_browser_shows_is_read(format: str) -> None:
    options = {"quality": 95} if format == "AVIF" else {}
    assert np.abs(read(saved(photo(), format, **options)) - np.asarray(photo(), float)).mean() < 6


@pytest.mark.parametrize("name", sorted(path.stem for path in HEIC.glob("*.heic")))
def test_a_phones_heic_is_read(name: str) -> None:
    """Each shows the same picture: a photograph, coloured otherwise in each corner."""
    pixels = read((HEIC / f"{name}.heic").read_bytes())
    assert pixels.shape == (32, 48, 3)
    assert np.abs(pixels - np.asarray(photo(), float)).mean() < 6


@pytest.mark.parametrize(
    ("format", "name"), [("TIFF", "a TIFF picture"), ("ICO", "an icon"), ("PDF", "a PDF document"), ("PPM", None)]
)
def test_other_formats_are_unsupported_and_called_by_name(format: str, name: str | None) -> None:
    got = f"; got {name}" if name else ""
    words = f"file must be a JPEG, PNG, WebP, AVIF, HEIC, GIF or BMP picture{got}"
    with pytest.raises(ImageUnsupported) as caught:
        read(saved(plain("red", size=(32, 32)), format))
    assert (caught.value.message, caught.value.param) == (words, "file")


@pytest.mark.parametrize(
    ("data", "got"),
    [
        (b"", "; it is empty"),
        (b"\xff\xd8", ""),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", ""),
        (b"RIFF\0\0\0\0WAVEfmt ", ""),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "; got a video"),
        (b"\x1aE\xdf\xa3webm", "; got a video"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "; got an SVG drawing"),
        (b"<!DOCTYPE html><title>Not found</title>", "; got a web page"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "; got a JPEG XL picture"),
    ],
)
def test_what_is_no_picture_is_unsupported(data: bytes, got: str) -> None:
    with pytest.raises(ImageUnsupported) as caught:
        read(data)
    assert caught.value.message.partition(" picture")[2] == got


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("part", [0.02, 0.3, 0.8])
def test_a_file_cut_short_is_unreadable(format: str, part: float) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    data = saved(noise, format)
    with pytest.raises(ImageUnreadable) as caught:
        read(data[: max(16, int(len(data) * part))])
    assert caught.value.param == "file"


@pytest.mark.parametrize(
    "start", [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\x20\0\0\0WEBPVP8 ", b"RIFF\0\0\0\0WEBP"]
)
def test_junk_behind_a_right_signature_is_unreadable(start: bytes) -> None:
    with pytest.raises(ImageUnreadable):
        read(start + random.Random(0).randbytes(200))


# How large


def test_a_picture_of_the_smallest_side_is_read() -> None:
    assert read(saved(plain("red", size=(16, 16)), "PNG")).shape == (16, 16, 3)


@pytest.mark.parametrize("size", [(15, 40), (40, 15), (1, 1)])
def test_a_side_below_16_px_is_too_small(size: tuple[int, int]) -> None:
    with pytest.raises(ImageTooSmall, match=rf"from 16 to 16384 px; got {size[0]}×{size[1]}") as caught:
        read(saved(plain("red", size=size), "PNG"))
    assert caught.value.param == "file"


def test_a_side_of_16384_px_is_read_and_one_more_is_too_large() -> None:
    assert read(saved(plain(7, "L", (16384, 16)), "PNG")).shape == (16, 16384, 3)
    with pytest.raises(ImageTooLarge, match=r"from 16 to 16384 px; got 16385×16") as caught:
        read(saved(plain(7, "L", (16385, 16)), "PNG"))
    assert caught.value.param == "file"


def test_the_megapixel_limit_is_the_last_size_that_is_read() -> None:
    assert read(saved(plain(7, "L", (1000, 1000)), "PNG"), max_megapixels=1).shape == (1000, 1000, 3)
    with pytest.raises(ImageTooLarge, match=r"at most 1 megapixels; got 2\.0 \(2000×1000\)") as caught:
        read(saved(plain(7, "L", (2000, 1000)), "PNG"), max_megapixels=1)
    assert caught.value.param == "file"


@pytest.mark.parametrize("size", [(8160, 6144), (8192, 6144), (8064, 6048)])
def test_what_phones_call_50_megapixels_is_within_50(size: tuple[int, int]) -> None:
    """8192×6144 px are 50.3 millions."""
    assert read(saved(Image.new("L", size), "JPEG"), max_megapixels=50).shape[0] == 2160


# 64 megapixels pass Pillow's own check, 100 make it warn, 400 make it raise.
@pytest.mark.parametrize("side", [8_000, 10_000, 20_000])
@pytest.mark.parametrize("action", ["error", "ignore"])
def test_a_bomb_is_too_large_before_anything_is_decoded(side: int, action: Any) -> None:
    undecodable = png(2, 8, (side, side), b"")
    with warnings.catch_warnings():
        warnings.simplefilter(action)
        with pytest.raises(ImageTooLarge, match="at most 50 megapixels"):
            read(undecodable)


def test_a_webp_whose_header_alone_is_huge_is_too_large() -> None:
    data = bytearray(saved(plain("red"), "WEBP", save_all=True, append_images=[plain("blue")], duration=100))
    data[24:30] = (16000 - 1).to_bytes(3, "little") + (11000 - 1).to_bytes(3, "little")
    with pytest.raises(ImageTooLarge):
        read(bytes(data))


def test_a_jpeg_that_repeats_its_scans_is_refused_before_it_costs_minutes() -> None:
    data = saved(plain(128, "L", (64, 64)), "JPEG", progressive=True)
    last_scan = data[data.rindex(b"\xff\xda") : -2]
    assert read(data[:-2] + last_scan * 20 + b"\xff\xd9").shape == (64, 64, 3)
    with pytest.raises(ImageUnreadable, match="at most 64 progressive scans"):
        read(data[:-2] + last_scan * 100 + b"\xff\xd9")


def test_a_video_behind_a_phones_photo_does_not_count_as_scans() -> None:
    assert read(saved(photo(), "JPEG") + b"\xff\xda\0\2" * 1000).shape == (32, 48, 3)


# No larger than a clip needs, and within a bounded memory


@pytest.mark.parametrize("format", ["JPEG", "PNG", "BMP"])
@pytest.mark.parametrize("size", [(4400, 4320), (3000, 2400), (2000, 9000)])
def test_a_picture_larger_than_any_clip_is_reduced(format: str, size: tuple[int, int]) -> None:
    large = gradient(*size)
    factor = min(1, 2160 / min(size))
    wanted = (int(size[0] * factor + 1e-6), int(size[1] * factor + 1e-6))
    pixels = read(saved(large, format))
    assert pixels.shape == (wanted[1], wanted[0], 3)
    assert np.abs(pixels - np.asarray(large.resize(wanted, Image.Resampling.BOX), float)).mean() < 1


def test_a_large_picture_is_reduced_as_it_is_seen_not_as_it_is_stored() -> None:
    """Black and white with alpha, side by side: mixed in light that is seen, and over black."""
    column = Image.fromarray(np.array([[[255, 255, 255, 128], [255, 255, 255, 0]]], np.uint8))
    picture = Image.new("RGBA", (4320, 4320))
    for left in range(0, 4320, 2):
        picture.paste(column.resize((2, 4320), Image.Resampling.NEAREST), (left, 0))
    pixels = read(saved(picture, "PNG", compress_level=1))
    assert pixels.shape == (2160, 2160, 3)
    assert np.abs(pixels.astype(int) - 64).max() <= 1


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_a_picture_of_many_strips_has_no_seams(mode: str) -> None:
    """Pillow's own conversion of the whole picture gives the same."""
    whole = gradient(900, 1500, mode)
    expected = whole.convert("RGB")
    if mode == "RGBA":
        expected = Image.composite(expected, Image.new("RGB", whole.size), whole.getchannel("A"))
    assert (read(saved(whole, "PNG")) == np.asarray(expected)).all()


def test_a_picture_of_many_strips_follows_its_profile_everywhere() -> None:
    small, large = (
        read(saved(plain((180, 120, 90), size=(side, side)), "PNG", icc_profile=WIDE)) for side in (16, 1500)
    )
    assert (large == small[0, 0]).all()


def test_a_picture_is_not_made_tiny_to_fit_memory() -> None:
    """16 bits in two pictures: what is left is enough for a sixth of its sides."""
    row = bytes(8 * 5000)
    with pytest.raises(ImageTooLarge, match="more memory than is allowed"):
        read(png(6, 16, (5000, 5735), row))
    assert min(read(png(6, 16, (4000, 4000), row[: 8 * 4000])).shape[:2]) == 2160


@pytest.mark.parametrize(
    "options",
    [
        {"format": "JPEG", "progressive": True, "subsampling": 0},
        {"format": "WEBP", "method": 0},
    ],
)
def test_what_needs_more_memory_than_is_allowed_is_too_large(options: dict[str, Any]) -> None:
    """libjpeg keeps all coefficients of a progressive file, libwebp two canvases."""
    with pytest.raises(ImageTooLarge, match="more memory than is allowed") as caught:
        read(saved(Image.new("RGB", (7000, 7000)), **options))
    assert caught.value.param == "file"


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("animated", [False, True])
def test_the_size_of_every_kind_of_webp_is_known_before_it_is_opened(lossless: bool, mode: str, animated: bool) -> None:
    more = {"save_all": True, "append_images": [plain("blue", size=(300, 200))], "duration": 100} if animated else {}
    data = saved(gradient(300, 200, mode), "WEBP", lossless=lossless, **more)
    assert webp_size(data) == (300, 200)


# Upright

# EXIF 2.32, table 6: which side of the picture as seen the first stored row and the first stored column are.
STORED = {
    1: lambda seen: seen,
    2: lambda seen: seen[:, ::-1],
    3: lambda seen: seen[::-1, ::-1],
    4: lambda seen: seen[::-1],
    5: lambda seen: seen.transpose(1, 0, 2),
    6: lambda seen: seen[:, ::-1].transpose(1, 0, 2),
    7: lambda seen: seen[::-1, ::-1].transpose(1, 0, 2),
    8: lambda seen: seen[::-1].transpose(1, 0, 2),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_a_picture_comes_out_as_its_camera_was_held(orientation: int, format: str) -> None:
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](np.asarray(photo()))))
    upright = read(saved(stored, format, quality=95, exif=exif(orientation)))
    assert np.abs(upright - np.asarray(photo(), float)).mean() < 4


@pytest.mark.parametrize("orientation", STORED)
def test_a_picture_of_many_strips_comes_out_upright(orientation: int) -> None:
    seen = np.asarray(photo(1000, 900))
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](seen)))
    assert (read(saved(stored, "PNG", exif=exif(orientation))) == seen).all()


# Pillow warns of the last one; no process of ours makes that an error.
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("tags", [exif(0), exif(9), b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\xff"])
def test_broken_metadata_does_not_cost_the_picture(tags: bytes) -> None:
    assert read(saved(photo(), "JPEG", exif=tags)).shape == (32, 48, 3)


# All kinds of pixels


def test_grey_with_16_bits_is_rounded_to_the_nearest_shade() -> None:
    shades = np.arange(0, 65536, 1024, dtype=">u2")
    pixels = read(png(0, 16, (64, 16), shades.tobytes()))
    assert (pixels == np.round(shades / 257)[np.newaxis, :, np.newaxis]).all()


def test_colour_with_16_bits_is_rounded_to_the_nearest_shade() -> None:
    row = (np.arange(48) * 1000).astype(">u2")
    assert (read(png(2, 16, (16, 16), row.tobytes())) == np.round(row / 257).reshape(1, 16, 3)).all()


def test_grey_black_and_white_and_palettes_are_read() -> None:
    assert (read(saved(plain(77, "L"), "PNG")) == 77).all()
    assert (read(saved(plain(77, "L"), "JPEG")) == 77).all()
    assert (read(saved(plain(1, "1"), "PNG")) == 255).all()
    assert (read(saved(plain((10, 20, 30)).quantize(4), "PNG")) == (10, 20, 30)).all()


def test_cmyk_jpegs_are_ink_on_paper() -> None:
    """Pillow writes them inverted, as Adobe does."""
    no_ink, cyan, black = (
        saved(plain(inks, "CMYK"), "JPEG") for inks in ((0, 0, 0, 0), (255, 0, 0, 0), (0, 0, 0, 255))
    )
    assert b"Adobe" in no_ink
    assert np.abs(read(no_ink) - np.array([255.0, 255, 255])).max() <= 2
    assert np.abs(read(cyan) - np.array([0.0, 255, 255])).max() <= 2
    assert np.abs(read(black) - np.array([0.0, 0, 0])).max() <= 2


def test_alpha_is_laid_over_black() -> None:
    half = 128 / 255
    clear_palette = Image.new("P", (40, 30), 1)
    clear_palette.putpalette([9, 9, 9, 200, 100, 50])
    files = {
        "RGBA": saved(plain((200, 100, 50, 128), "RGBA"), "PNG"),
        "WebP": saved(plain((200, 100, 50, 128), "RGBA"), "WEBP", lossless=True),
        "palette": saved(clear_palette, "PNG", transparency=b"\xff\x80"),
        "16 bits": png(6, 16, (40, 30), struct.pack(">4H", 200 * 257, 100 * 257, 50 * 257, 128 * 257) * 40),
    }
    for name, data in files.items():
        assert np.abs(read(data) - np.array([200, 100, 50]) * half).max() <= 1, name
    assert np.abs(read(saved(plain((200, 128), "LA"), "PNG")) - 200 * half).max() <= 1


def test_a_colour_declared_clear_becomes_black() -> None:
    striped = np.tile(np.array([[[200, 100, 50], [1, 2, 3]]], np.uint8), (20, 10, 1))
    files = [
        saved(Image.fromarray(striped), "PNG", transparency=(200, 100, 50)),
        saved(Image.fromarray(striped).quantize(2), "PNG", transparency=0),
        saved(Image.fromarray(striped[:, :, 0]), "PNG", transparency=200),
        png(0, 16, (20, 20), struct.pack(">2H", 200 << 8, 1 << 8) * 10, chunk(b"tRNS", struct.pack(">H", 200 << 8))),
    ]
    for data in files:
        first, second = read(data)[0, :2].tolist()
        assert (0, 0, 0) in (tuple(first), tuple(second))
        assert 0 < max(*first, *second) <= 200


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_of_an_animation_the_first_frame_is_read(format: str) -> None:
    frames = [plain(colour) for colour in ("blue", "red")]
    data = saved(plain("lime"), format, save_all=True, append_images=frames, duration=100, lossless=True)
    assert (read(data) == (0, 255, 0)).all()


# Colours


def srgb_from_linear(linear: NDArray[np.float64]) -> NDArray[np.float64]:
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.abs(linear) ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_a_wide_gamut_photo_is_brought_to_srgb(format: str) -> None:
    stored = np.array([180, 120, 90])
    expected = srgb_from_linear(np.linalg.inv(SRGB) @ P3 @ (stored / 255) ** 2.2)
    assert np.abs(expected - stored).max() > 8
    options: dict[str, Any] = {"quality": 100} if format == "JPEG" else {"lossless": True}
    pixels = read(saved(plain(tuple(stored.tolist())), format, icc_profile=WIDE, **options))
    assert np.abs(pixels - expected).max() <= 2


def test_profiles_count_under_alpha_too() -> None:
    opaque = read(saved(plain((180, 120, 90)), "PNG", icc_profile=WIDE))
    clear = read(saved(plain((180, 120, 90, 128), "RGBA"), "PNG", icc_profile=WIDE))
    assert np.abs(clear - opaque * (128 / 255)).max() <= 1


@pytest.mark.parametrize("colour", [55, (55, 255)])
def test_a_grey_profile_is_followed(colour: Any) -> None:
    mode = "L" if colour == 55 else "LA"
    pixels = read(saved(plain(colour, mode), "PNG", icc_profile=LINEAR_GREY))
    assert np.abs(pixels - srgb_from_linear(np.array(55 / 255))).max() <= 1


def test_grey_with_16_bits_follows_a_grey_profile() -> None:
    embedded = chunk(b"iCCP", b"grey\0\0" + zlib.compress(LINEAR_GREY))
    pixels = read(png(0, 16, (20, 20), struct.pack(">H", 55 << 8) * 20, embedded))
    assert np.abs(pixels - srgb_from_linear(np.array(55 / 255))).max() <= 1


def test_an_rgb_profile_in_a_grey_jpeg_is_followed() -> None:
    pixels = read(saved(plain(30, "L"), "JPEG", icc_profile=WIDE))
    expected = srgb_from_linear(np.array((30 / 255) ** 2.2))
    assert abs(expected - 30) > 1
    assert np.abs(pixels - expected).max() <= 1


def test_a_cmyk_profile_is_followed() -> None:
    pixels = read(saved(plain((128, 0, 0, 0), "CMYK"), "JPEG", quality=100, icc_profile=cyan_is_grey()))
    assert np.abs(pixels - np.array([119.0, 119, 119])).max() <= 4  # L* = 50


def test_an_srgb_profile_changes_nothing() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert (read(saved(photo(), "PNG", icc_profile=srgb)) == np.asarray(photo())).all()


@pytest.mark.parametrize("profile", [b"nonsense", b"\0" * 200, WIDE[:200], LINEAR_GREY, cyan_is_grey()])
def test_a_profile_that_is_broken_or_meant_for_other_pixels_is_ignored(profile: bytes) -> None:
    assert (read(saved(photo(), "PNG", icc_profile=profile)) == np.asarray(photo())).all()


# What must not come through


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_nothing_but_pixels_comes_through(format: str) -> None:
    picture = read_picture(saved(photo(), format, exif=exif(1), icc_profile=WIDE), 50)
    assert picture.info == {}
    assert type(picture) is Image.Image
    for target in ("PNG", "JPEG"):
        again = Image.open(io.BytesIO(saved(picture, target)))
        assert not again.getexif()
        assert "icc_profile" not in again.info


DAMAGED = {
    "baseline JPEG": saved(photo(), "JPEG", exif=exif(6), icc_profile=WIDE),
    "progressive JPEG": saved(photo(), "JPEG", exif=exif(6), icc_profile=WIDE, progressive=True),
    "PNG": saved(photo(), "PNG", exif=exif(6), icc_profile=WIDE),
    "WebP": saved(photo(), "WEBP", exif=exif(6), icc_profile=WIDE),
    "lossless WebP": saved(photo(), "WEBP", exif=exif(6), icc_profile=WIDE, lossless=True),
    "AVIF": saved(photo(), "AVIF", exif=exif(6), icc_profile=WIDE),
    "HEIC": (HEIC / "with_another.heic").read_bytes(),
    "GIF": saved(photo().quantize(64), "GIF"),
    "BMP": saved(photo(), "BMP"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_files_give_a_picture_or_kinoras_own_error(kind: str) -> None:
    good = DAMAGED[kind]
    chance = random.Random(1)
    for _ in range(300):
        bad = bytearray(good)
        for _ in range(chance.choice((1, 3, 30))):
            bad[chance.randrange(len(bad))] = chance.randrange(256)
        end = chance.choice((len(bad), chance.randrange(len(bad))))
        assert outcome(bytes(bad[:end])) in ("RGB", "file")


def outcome(data: bytes) -> str | None:
    """The mode that is read, or the field at fault; errors of any other kind pass on and fail the test."""
    try:
        return read_picture(data, max_megapixels=1).mode
    except InvalidRequest as error:
        return error.param


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("size", [(64, 48), (300, 1025)])
def test_the_size_stands_in_the_head(kind: str, size: tuple[int, int]) -> None:
    data = io.BytesIO()
    Image.new("RGB", size).save(data, kind)
    assert size_of(data.getvalue()) == size


@pytest.mark.parametrize("broken", [b"\xff\xd8", b"\xff\xd8\xff\xe0\x00\x00", b"\xff\xd8" + b"\xff\xe0\x00\x02" * 9])
def test_a_head_without_a_size_is_refused(broken: bytes) -> None:
    with pytest.raises(ImageUnreadable):
        size_of(broken)


# What people sent

SHOWN = [(15, 64, 128), (239, 64, 128), (40, 60, 220), (230, 220, 40)]
"""What stands at the left and the right of the upper and the lower half of most of the files."""


@pytest.mark.parametrize("name", sorted(path.name for path in CASES.iterdir() if re.match("01|08_no", path.name)))
def test_damage_to_what_surrounds_the_pixels_costs_nothing(name: str) -> None:
    pixels = read((CASES / name).read_bytes())
    places = [(48, 20), (48, 300), (144, 20), (144, 300)]
    assert pixels.shape == (192, 320, 3)
    assert np.abs(np.array([pixels[place] for place in places], int) - np.array(SHOWN)).max() <= 2


def test_a_progressive_jpeg_without_an_end_is_the_same_as_with_it() -> None:
    data = (CASES / "08_progressive_no_eoi.jpg").read_bytes()
    assert (read(data) == read(data + b"\xff\xd9")).all()


@pytest.mark.parametrize("name", ["02_itxt.png", "02_ztxt.png"])
def test_text_is_skipped_however_long_it_is(name: str) -> None:
    assert read((CASES / name).read_bytes())[48, 20].tolist() == [15, 64, 128]


def test_damaged_exif_of_an_avif_costs_nothing() -> None:
    data = saved(photo(), "AVIF", exif=exif(6))
    assert read(data).shape == (48, 32, 3)
    assert read(data.replace(b"MM\0*", b"junk")).shape == (48, 32, 3)  # a box of its own turns it


def test_a_long_profile_is_followed() -> None:
    assert np.abs(read((CASES / "02_icc.png").read_bytes())[144, 300].astype(int) - [233, 221, 0]).max() <= 1


RIGHT = {
    "04_cicp_p3": [(255,) * 3, (128,) * 3, (64,) * 3, (16,) * 3, (255, 0, 0), (0, 255, 0), (0, 0, 255), (213, 115, 42)],
    "04_cicp_pq": [(255,) * 3, (132,) * 3, (30,) * 3, (1,) * 3, (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 0, 0)],
    "04_cicp_hlg": [(255,) * 3, (99,) * 3, (43,) * 3, (3,) * 3, (255, 0, 0), (0, 255, 0), (0, 0, 249), (230, 76, 29)],
    "04_cicp_linear": [
        (255,) * 3,
        (188,) * 3,
        (137,) * 3,
        (71,) * 3,
        (255, 0, 0),
        (0, 255, 0),
        (0, 0, 255),
        (229, 183, 133),
    ],
    "05_linear16": [(grey,) * 3 for grey in (4, 8, 12, 16, 24, 32, 48, 64)],
    "05_grey16": [(grey,) * 3 for grey in (4, 8, 16, 32, 64, 128, 200, 255)],
    "07_grey16": [(grey,) * 3 for grey in (4, 8, 16, 32, 64, 128, 200, 254)],
    "31_la8": [(grey,) * 3 for grey in (2, 6, 20, 43, 81, 146, 210, 255)],
    "31_la16": [(grey,) * 3 for grey in (2, 6, 20, 43, 81, 146, 210, 255)],
}
"""Four colours of the upper half, four of the lower."""


@pytest.mark.parametrize("name", RIGHT)
def test_colours_are_as_the_file_means_them(name: str) -> None:
    pixels = read((CASES / f"{name}.png").read_bytes())
    found = [pixels[row, column] for row in (32, 96) for column in (32, 96, 160, 224)]
    assert np.abs(np.array(found, int) - np.array(RIGHT[name])).max() <= 1


# Cut off


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("part", [0.5, 0.9, 0.99])
@pytest.mark.parametrize(
    "filled_up", [b"", b"\xff", bytes(64)], ids=["with nothing", "with half a marker", "with zeros"]
)
def test_a_jpeg_without_all_its_pixels_is_cut_off(progressive: bool, part: float, filled_up: bytes) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    data = saved(noise, "JPEG", progressive=progressive)
    with pytest.raises(ImageUnreadable, match=r"cut off|cannot be decoded"):
        read(data[: int(len(data) * part)] + filled_up)


@pytest.mark.parametrize(
    "options",
    [
        {"restart_marker_blocks": 1},
        {"restart_marker_rows": 1},
        {"restart_marker_blocks": 2, "subsampling": 0},
        {"progressive": True},
        {"progressive": True, "restart_marker_rows": 1},
    ],
    ids=str,
)
def test_a_jpeg_cut_off_anywhere_is_refused_or_whole(options: dict[str, Any]) -> None:
    """Also where an interval between restarts ends, or a scan."""
    data = saved(photo(96, 64), "JPEG", quality=90, **options)
    whole = read(data).astype(int)
    start = data.index(b"\xff\xda")
    for end in range(start, len(data) - 2, 3):
        if outcome(data[:end]) == "RGB":
            assert np.abs(read(data[:end]) - whole).max() <= 8, end


def test_a_jpeg_cut_off_between_two_scans_is_refused() -> None:
    data = saved(photo(96, 64), "JPEG", quality=90, progressive=True)
    scans = [at for at in range(len(data)) if data[at : at + 2] in (b"\xff\xda", b"\xff\xc4")]
    for end in scans[1:]:
        with pytest.raises(ImageUnreadable):
            read(data[:end])


def test_a_png_without_all_its_pixels_is_cut_off() -> None:
    data = saved(photo(), "PNG")
    with pytest.raises(ImageUnreadable, match="cut off"):
        read(data[: len(data) - 60])
