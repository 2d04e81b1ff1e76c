"""How a picture of one shape gets into a frame of another."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from worker.media.fit import LARGE, cover_box, fit_picture, resample, resampled

SIDES = st.tuples(st.integers(16, 16384), st.integers(16, 16384))
FRAMES = st.tuples(st.integers(64, 1920), st.integers(64, 1920))
FITS = ("cover", "contain", "stretch")


def ramps(width: int, height: int) -> Image.Image:
    """Red grows from 0 to 255 to the right, green downwards; blue is 255, so that black bars show."""
    y, x = np.mgrid[0:height, 0:width]
    channels = [(x + 0.5) / width * 255, (y + 0.5) / height * 255, np.full((height, width), 255)]
    return Image.fromarray(np.stack(channels, axis=-1).round().astype(np.uint8))


def fitted(picture: Image.Image, width: int, height: int, fit: str) -> NDArray[np.float64]:
    frame = fit_picture(picture, width, height, fit)
    assert (frame.size, frame.mode) == ((width, height), "RGB")
    return np.asarray(frame).astype(float)


@given(SIDES, FRAMES)
def test_the_cover_box_is_the_largest_of_its_shape_and_in_the_middle(
    picture: tuple[int, int], frame: tuple[int, int]
) -> None:
    left, top, right, bottom = cover_box(picture, frame)
    assert (right - left) / (bottom - top) == pytest.approx(frame[0] / frame[1])
    assert left >= 0
    assert top >= 0
    assert (left + right, top + bottom) == pytest.approx(picture)
    assert right - left == pytest.approx(picture[0]) or bottom - top == pytest.approx(picture[1])


def test_cover_cuts_equally_from_both_sides_and_nothing_else() -> None:
    frame = fitted(ramps(400, 200), 200, 200, "cover")
    assert np.abs(frame[:, :, 0] - np.linspace(64, 191, 200)).max() <= 1.5
    assert np.abs(frame[:, :, 1] - np.linspace(0.5, 254.5, 200)[:, np.newaxis]).max() <= 1.5


def test_contain_shows_the_whole_picture_between_black_bars() -> None:
    frame = fitted(ramps(400, 200), 200, 200, "contain")
    assert (frame[:50] == 0).all()
    assert (frame[150:] == 0).all()
    assert (frame[50:150, :, 2] == 255).all()
    assert np.abs(frame[50:150, :, 0] - np.linspace(0.5, 254.5, 200)).max() <= 1.5
    assert np.abs(frame[50:150, :, 1] - np.linspace(1, 254, 100)[:, np.newaxis]).max() <= 1.5


def test_stretch_shows_the_whole_picture_in_the_whole_frame() -> None:
    frame = fitted(ramps(400, 200), 200, 200, "stretch")
    assert np.abs(frame[:, :, 0] - np.linspace(0.5, 254.5, 200)).max() <= 1.5
    assert np.abs(frame[:, :, 1] - np.linspace(0.5, 254.5, 200)[:, np.newaxis]).max() <= 1.5


@pytest.mark.parametrize("fit", FITS)
def test_a_picture_of_the_frames_size_stays_as_it_is(fit: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (72, 128, 3), np.uint8)
    assert (fitted(Image.fromarray(noise), 128, 72, fit) == noise).all()


@pytest.mark.parametrize("fit", FITS)
def test_fine_detail_becomes_grey_where_it_is_reduced(fit: str) -> None:
    board = (np.indices((720, 1280)).sum(axis=0) % 2 * 255).astype(np.uint8)
    frame = fitted(Image.fromarray(board).convert("RGB"), 320, 180, fit)
    assert np.abs(frame - 127.5).max() <= 1.5


def test_a_small_picture_is_enlarged_smoothly() -> None:
    small = Image.fromarray(np.array([[0] * 8 + [255] * 8] * 16, np.uint8)).convert("RGB")
    edge = fitted(small, 1024, 1024, "cover")[512, :, 0]
    assert np.abs(np.diff(edge)).max() < 10  # blocks would jump by 255
    assert edge[0] == 0
    assert edge[-1] == 255


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("size", [(16, 16), (16384, 16), (16, 16384), (8000, 6000)])
@pytest.mark.parametrize("frame", [(64, 64), (64, 1920), (1024, 576)])
def test_any_picture_fits_any_frame(fit: str, size: tuple[int, int], frame: tuple[int, int]) -> None:
    white = fitted(Image.new("RGB", size, "white"), *frame, fit)
    assert white.max() == 255
    if fit != "contain":
        assert white.min() == 255


def test_a_fit_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="cover, contain or stretch"):
        fit_picture(Image.new("RGB", (16, 16)), 64, 64, "fill")


@pytest.mark.parametrize(("frame", "allowed"), [((1500, 1000), 0.1), ((1000, 667), 0.1), ((300, 200), 2.5)])
def test_where_strips_of_a_large_picture_meet_nothing_shows(frame: tuple[int, int], allowed: float) -> None:
    """The last is reduced by whole numbers first, which begins anew in each strip: of noise, whose rms is 60."""
    picture = Image.effect_noise((2400, 1600), 60).convert("RGB")
    box = (3.3, 2.2, 2399.1, 1597.5)
    apart = np.asarray(resample(picture, frame, box)).astype(float) - np.asarray(resampled(picture, frame, box))
    assert np.sqrt((apart**2).mean(axis=(1, 2))).max() < allowed  # of the worst line
    assert picture.width * picture.height > LARGE


@pytest.mark.parametrize("fit", FITS)
def test_what_has_the_frames_size_already_stays_as_it_is(fit: str) -> None:
    """So that a picture may be fitted before its clip's turn."""
    once = fit_picture(ramps(400, 200), 128, 96, fit)
    assert fit_picture(once, 128, 96, fit) is once
