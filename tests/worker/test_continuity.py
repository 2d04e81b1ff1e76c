"""Where two parts of a long clip meet."""

import numpy as np
import pytest
from numpy.typing import NDArray

from core.plan.parts import OVERLAP
from worker.media.continuity import ContinuityState, append_part, as_png, colours_of, from_png, match_colours

Bytes = NDArray[np.uint8]


def frames(count: int = 12, offset: float = 0.0, contrast: float = 1.0) -> Bytes:
    """Noise around grey, the same each time."""
    noise = np.random.default_rng(0).normal(0, 30, (count, 48, 64, 3))
    return (128 + offset + contrast * noise).round().clip(0, 255).astype(np.uint8)


def test_a_pass_hands_on_the_frames_that_the_next_one_makes_too() -> None:
    made = frames()
    first, state = append_part(made, 12 - OVERLAP, None, goes_on=True)
    assert state is not None
    assert np.array_equal(first, made[: 12 - OVERLAP])
    assert np.array_equal(state.frames, made[12 - OVERLAP :])
    assert np.array_equal(from_png(as_png(state.frames)), state.frames)


def test_the_next_pass_begins_with_the_frame_it_goes_on_from_and_fades_in() -> None:
    before = ContinuityState(np.full((OVERLAP, 48, 64, 3), 100, np.uint8), colours_of(frames()))
    made, after = append_part(frames(), 9, before, goes_on=False)
    assert after is None
    assert made.shape[0] == 9
    assert np.array_equal(made[0], before.frames[0])
    spread = [float(frame.std()) for frame in made]
    assert spread[: OVERLAP + 1] == sorted(spread[: OVERLAP + 1])
    assert np.array_equal(made[OVERLAP:], frames()[OVERLAP:9])


def test_colours_that_drift_from_pass_to_pass_are_held() -> None:
    """Each part comes out lighter and harder than what it went on from, as a model does it."""
    first = colours_of(frames())
    mean, deviation = first.mean[0], first.deviation[0]
    state, light, free = None, [], mean
    for number in range(6):
        free += 5
        made = frames(offset=(state.colours.mean[0] if state else mean) - mean + 5 * bool(number), contrast=1.05)
        kept, state = append_part(made, 7, state, goes_on=True)
        light.append(colours_of(kept[OVERLAP:]))
    assert free - mean == 30
    assert max(abs(np.array(each.mean) - light[0].mean).max() for each in light) < 1
    assert max(abs(np.array(each.deviation) / light[0].deviation - 1).max() for each in light) < 0.03
    assert deviation < light[0].deviation[0]  # the first part is the measure, as it came


@pytest.mark.parametrize(("offset", "moved"), [(10.0, 10.0), (60.0, 24.0)])
def test_what_is_given_back_has_a_bound(offset: float, moved: float) -> None:
    """Where the camera looks elsewhere, the picture must not turn grey for it."""
    other = frames(offset=offset, contrast=0.5)
    held = colours_of(match_colours(other, colours_of(frames(contrast=0.5))))
    assert colours_of(other).mean[0] - held.mean[0] == pytest.approx(moved, abs=0.6)
