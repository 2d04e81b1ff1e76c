"""The parts of a long clip add up to what was asked for, and each has frames enough to go over into the next."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.config import Settings
from core.engines import find_engine
from core.parts import OVERLAP, parts
from core.spec import Clip, ClipRequest, resolve

SETTINGS = Settings(_env_file=None)
ENGINE = find_engine("svd-xt", SETTINGS)


def clip(num_frames: int, seed: int = 7) -> Clip:
    return resolve(ClipRequest(num_frames=num_frames, fps=30, seed=seed), ENGINE, SETTINGS)[0]


def test_a_clip_of_one_pass_is_itself() -> None:
    assert parts(clip(25), ENGINE, SETTINGS) == [clip(25)]
    assert parts(clip(600), replace(ENGINE, frames_at_once=None), SETTINGS) == [clip(600)]


@pytest.mark.parametrize(
    ("engine", "video_frames", "each"), [("svd-xt", None, 25), ("svd", None, 14), ("svd", 20, 20), ("svd-xt", 100, 25)]
)
def test_a_part_is_as_long_as_the_clip_that_is_compiled(engine: str, video_frames: int | None, each: int) -> None:
    settings = SETTINGS.model_copy(update={"video_frames": video_frames})
    assert {part.num_frames for part in parts(clip(100), find_engine(engine, settings), settings)} == {each}


@given(st.integers(26, 600), st.integers(OVERLAP + 1, 25))
def test_parts_add_up_and_overlap(num_frames: int, at_once: int) -> None:
    settings = SETTINGS.model_copy(update={"video_frames": at_once})
    made = parts(clip(num_frames), ENGINE, settings)
    lengths = [each.part.num_frames for each in made if each.part]
    assert sum(lengths) == num_frames
    assert {each.num_frames for each in made} == {at_once}
    assert lengths[:-1] == [at_once - OVERLAP] * (len(made) - 1)
    assert OVERLAP < lengths[-1] <= at_once  # what is blended, and something new
    assert [(each.part.number, each.part.of, each.part.is_last) for each in made if each.part] == [
        (number, len(made), number == len(made) - 1) for number in range(len(made))
    ]


def test_each_part_has_noise_of_its_own() -> None:
    assert [each.seed for each in parts(clip(60, seed=2**32 - 2), ENGINE, SETTINGS)] == [2**32 - 2, 2**32 - 1, 0]
