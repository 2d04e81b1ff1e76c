"""The parts of a long clip add up to what was asked for, and each has frames enough to go over into the next."""

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
    assert parts(clip(25), 25) == [clip(25)]
    assert parts(clip(600), None) == [clip(600)]


@given(st.integers(26, 600), st.integers(OVERLAP + 1, 25))
def test_passes_add_up_and_overlap(num_frames: int, at_once: int) -> None:
    made = parts(clip(num_frames), at_once)
    lengths = [each.part.num_frames for each in made if each.part]
    assert sum(lengths) == num_frames
    assert {each.num_frames for each in made} == {at_once}
    assert lengths[:-1] == [at_once - OVERLAP] * (len(made) - 1)
    assert OVERLAP < lengths[-1] <= at_once  # what is blended, and something new
    assert [(each.part.number, each.part.of, each.part.is_last) for each in made if each.part] == [
        (number, len(made), number == len(made) - 1) for number in range(len(made))
    ]


def test_each_pass_has_noise_of_its_own() -> None:
    assert [each.seed for each in parts(clip(60, seed=2**32 - 2), 25)] == [2**32 - 2, 2**32 - 1, 0]
