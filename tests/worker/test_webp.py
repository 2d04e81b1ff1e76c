from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from worker.media.webp import small_webp


def opened(frames: np.ndarray, fps: float = 8) -> Image.Image:
    return Image.open(BytesIO(small_webp(frames, fps)))


@pytest.mark.parametrize(
    ("frame", "small"),
    [
        *(((1024, 576), (256, 144)), ((576, 1024), (144, 256)), ((1920, 64), (256, 9)), ((200, 2), (256, 3))),
        *(((128, 72), (256, 144)), ((32, 24), (64, 48)), ((8, 8), (16, 16))),
    ],
)
def test_it_is_small_and_keeps_the_shape(frame: tuple[int, int], small: tuple[int, int]) -> None:
    assert opened(np.zeros((2, frame[1], frame[0], 3), np.uint8)).size == small


def test_it_moves_as_fast_as_the_clip_and_for_ever() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 36, 64, 3), np.uint8)
    animation = opened(frames)
    assert (animation.n_frames, animation.info["loop"]) == (5, 0)
    animation.seek(3)
    animation.load()
    assert animation.info["duration"] == 125


def test_its_pixels_are_those_of_the_frames() -> None:
    y, x = np.mgrid[0:72, 0:128]
    frames = np.stack([np.stack([x * 2, y * 3, np.full_like(x, 40 * n)], axis=-1) for n in range(4)]).astype(np.uint8)
    animation = opened(frames)
    for index, frame in enumerate(frames):
        animation.seek(index)
        seen = np.asarray(animation.convert("RGB").resize((128, 72))).astype(float)
        assert np.abs(seen - frame).mean() < 5
