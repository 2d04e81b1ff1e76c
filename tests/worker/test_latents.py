import numpy as np
import pytest

from worker.engines.svd.latents import TO_RGB, to_rgb


def one_colour(*channels: float) -> list[int]:
    latents = np.broadcast_to(np.array(channels, np.float32)[:, None, None], (1, 4, 3, 5))
    frames = to_rgb(latents)
    assert (frames.shape, frames.dtype) == ((1, 3, 5, 3), np.uint8)
    assert (frames == frames[0, 0, 0]).all()
    red, green, blue = frames[0, 0, 0].tolist()
    return [red, green, blue]


def test_latents_of_nothing_are_grey() -> None:
    assert one_colour(0, 0, 0, 0) == [128, 128, 128]


@pytest.mark.parametrize("colour", [(255, 255, 255), (0, 0, 0), (230, 30, 30), (30, 200, 60), (20, 40, 230)])
def test_each_colour_has_latents_that_show_it(colour: tuple[int, int, int]) -> None:
    """Of a size that latents have: their standard deviation is 1."""
    wanted = np.array(colour) / 127.5 - 1
    latents = np.linalg.lstsq(TO_RGB.T, wanted, rcond=None)[0]
    assert np.abs(latents).max() < 3
    assert np.abs(np.array(one_colour(*latents)) - colour).max() <= 1


def test_what_is_beyond_white_and_black_is_cut() -> None:
    assert one_colour(50, 50, 0, -50) == [255, 255, 255]
    assert one_colour(-50, -50, 0, 50) == [0, 0, 0]


def test_places_stay_where_they_are() -> None:
    latents = np.zeros((2, 4, 4, 6), np.float32)
    latents[1, :2, 1, 4] = 3
    frames = to_rgb(latents).astype(int)
    assert [tuple(place) for place in np.argwhere(frames.sum(axis=-1) > 400)] == [(1, 1, 4)]
