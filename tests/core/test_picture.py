"""What comes out of users' files: right pixels for good ones, Kinora's own errors for all others."""

import io
import random
import struct
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from core.errors import ImageTooLarge, ImageTooSmall, ImageUnreadable, ImageUnsupported, InvalidRequest
from core.picture import read_picture, size_of, webp_size

Pixels = NDArray[np.uint8]


def saved(picture: Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, format, **options)
    return file.getvalue()


def read(data: bytes, max_megapixels: int = 50) -> Pixels:
    picture = read_picture(data, max_megapixels)
    assert picture.mode == "RGB"
    return np.asarray(picture)


def plain(colour: Any, mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> Image.Image:
    return Image.new(mode, size, colour)


def photo(width: int = 48, height: int = 32) -> Image.Image:
    """Smooth, with other colours in each corner, so that a wrong turn or a lost channel shows."""
    y, x = np.mgrid[0:height, 0:width]
    channels = [x * 255 / (width - 1), y * 255 / (height - 1), 255 - x * 200 / (width - 1)]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(colour_type: int, depth: int, size: tuple[int, int], row: bytes, *extra: bytes) -> bytes:
    """A PNG of equal rows, for what Pillow reads but does not write."""
    header = struct.pack(">IIBBBBB", *size, depth, colour_type, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress((b"\0" + row) * size[1]))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(extra) + pixels + chunk(b"IEND", b"")


# Which files are taken


@pytest.mark.parametrize("options", [{"format": "JPEG"}, {"format": "PNG"}, {"format": "WEBP"}, {"format": "MPO"}])
def test_jpeg_png_webp_and_mpo_are_read(options: dict[str, str]) -> None:
    assert np.abs(read(saved(photo(), quality=95, **options)) - np.asarray(photo(), float)).mean() < 4


def test_of_a_phones_two_pictures_in_one_jpeg_the_first_is_read() -> None:
    data = saved(plain("red"), "MPO", save_all=True, append_images=[plain("blue")])
    assert read(data)[0, 0].tolist() == [254, 0, 0]


@pytest.mark.parametrize("format", ["GIF", "BMP", "TIFF", "PPM", "EPS", "ICO"])
def test_other_formats_are_unsupported_though_pillow_could_read_them(format: str) -> None:
    with pytest.raises(ImageUnsupported, match="JPEG, PNG or WebP") as caught:
        read(saved(plain("red", size=(32, 32)), format))
    assert caught.value.param == "file"


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8", b"ffconcat version 1.0\nfile /etc/passwd\n", b"RIFF\0\0\0\0WAVEfmt "]
)
def test_what_is_no_picture_is_unsupported(data: bytes) -> None:
    with pytest.raises(ImageUnsupported):
        read(data)


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
    with pytest.raises(ImageTooLarge, match=r"at most 1 megapixels; got 1\.2 \(1200×1000\)") as caught:
        read(saved(plain(7, "L", (1200, 1000)), "PNG"), max_megapixels=1)
    assert caught.value.param == "file"


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


def gradient(width: int, height: int, mode: str = "RGB") -> Image.Image:
    return Image.merge(
        mode, [Image.linear_gradient("L").resize((width, height), Image.Resampling.BILINEAR)] * len(mode)
    )


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_a_picture_much_larger_than_any_clip_is_reduced_by_a_whole_number(format: str) -> None:
    large = gradient(4400, 4320)
    pixels = read(saved(large, format))
    assert pixels.shape == (2160, 2200, 3)
    assert np.abs(pixels - np.asarray(large.reduce(2), float)).mean() < 1
    assert read(saved(large.crop((0, 0, 4400, 4319)), format)).shape == (4319, 4400, 3)


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


def exif(orientation: Any) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    tags[0x010F] = "a maker"
    return tags.tobytes()


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_a_picture_comes_out_as_its_camera_was_held(orientation: int, format: str) -> None:
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](np.asarray(photo()))))
    upright = read(saved(stored, format, quality=95, exif=exif(orientation)))
    assert np.abs(upright - np.asarray(photo(), float)).mean() < 4


# Pillow warns of the last one; no process of ours makes that an error.
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("tags", [exif(0), exif(9), b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\xff"])
def test_broken_metadata_does_not_cost_the_picture(tags: bytes) -> None:
    assert read(saved(photo(), "JPEG", exif=tags)).shape == (32, 48, 3)


# All kinds of pixels


def test_grey_with_16_bits_keeps_its_shades() -> None:
    shades = np.arange(0, 65536, 1024, dtype=">u2")
    pixels = read(png(0, 16, (64, 16), shades.tobytes()))
    assert (pixels == (shades // 256)[np.newaxis, :, np.newaxis]).all()


def test_colour_with_16_bits_keeps_its_shades() -> None:
    row = (np.arange(48) * 1000).astype(">u2")
    assert (read(png(2, 16, (16, 16), row.tobytes())) == (row // 256).reshape(1, 16, 3)).all()


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
CURVE = gamma(2.2)
WIDE = profile(
    b"RGB ",
    b"mntr",
    b"XYZ ",
    rXYZ=xyz(*P3[:, 0]),
    gXYZ=xyz(*P3[:, 1]),
    bXYZ=xyz(*P3[:, 2]),
    rTRC=CURVE,
    gTRC=CURVE,
    bTRC=CURVE,
)
LINEAR_GREY = profile(b"GRAY", b"mntr", b"XYZ ", kTRC=gamma(1))


def srgb_from_linear(linear: NDArray[np.float64]) -> NDArray[np.float64]:
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.abs(linear) ** (1 / 2.4) - 0.055)


def cyan_is_grey() -> bytes:
    """A press whose cyan ink prints neutral grey, and whose other inks print nothing: A2B0 as lut8 with 2⁴ points."""
    identity = b"".join(number(value) for value in (1, 0, 0, 0, 1, 0, 0, 0, 1))
    paper, inked = bytes([255, 128, 128]), bytes([0, 128, 128])
    tables = bytes(range(256))
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + tables * 4 + paper * 8 + inked * 8 + tables * 3
    return profile(b"CMYK", b"prtr", b"Lab ", A2B0=lut)


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


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("progressive", [False, True])
def test_damaged_files_give_a_picture_or_kinoras_own_error(format: str, progressive: bool) -> None:
    options: dict[str, Any] = {"progressive": True} if format == "JPEG" else {"lossless": True}
    good = saved(photo(), format, exif=exif(6), icc_profile=WIDE, **(options if progressive else {}))
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
