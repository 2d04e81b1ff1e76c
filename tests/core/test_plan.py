"""From a clip to its steps: which there are, what each knows, and that the parts of a long clip add up."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.config.settings import Settings
from core.engines.known import find_engine
from core.plan.clip import clip_graph
from core.plan.parts import OVERLAP, Part, parts
from core.plan.steps import PARAMS, JoinClips, RenderClip, SmoothClip
from core.requests.clip import Clip, ClipRequest
from core.requests.resolve import resolve

SETTINGS = Settings(_env_file=None)
ENGINE = find_engine("svd-xt", SETTINGS)


def clip(num_frames: int, seed: int = 7) -> Clip:
    return resolve(ClipRequest(num_frames=num_frames, fps=30, seed=seed), ENGINE, SETTINGS)[0]


def test_a_clip_of_one_pass_is_itself() -> None:
    assert parts(clip(25), ENGINE, SETTINGS) == [Part(clip(25).settings, 25)]
    assert parts(clip(600), replace(ENGINE, frames_at_once=None), SETTINGS) == [Part(clip(600).settings, 600)]


@pytest.mark.parametrize(
    ("engine", "video_frames", "each"), [("svd-xt", None, 25), ("svd", None, 14), ("svd", 20, 20), ("svd-xt", 100, 25)]
)
def test_a_part_is_as_long_as_the_clip_that_is_compiled(engine: str, video_frames: int | None, each: int) -> None:
    settings = SETTINGS.model_copy(update={"video_frames": video_frames})
    assert {part.settings.num_frames for part in parts(clip(100), find_engine(engine, settings), settings)} == {each}


@given(st.integers(26, 600), st.integers(OVERLAP + 1, 25))
def test_parts_add_up_and_overlap(num_frames: int, at_once: int) -> None:
    settings = SETTINGS.model_copy(update={"video_frames": at_once})
    made = parts(clip(num_frames), ENGINE, settings)
    lengths = [each.adds for each in made]
    assert sum(lengths) == num_frames
    assert {each.settings.num_frames for each in made} == {at_once}
    assert lengths[:-1] == [at_once - OVERLAP] * (len(made) - 1)
    assert OVERLAP < lengths[-1] <= at_once  # what is blended, and something new


def test_each_part_has_noise_of_its_own() -> None:
    assert [each.settings.seed for each in parts(clip(60, seed=2**32 - 2), ENGINE, SETTINGS)] == [
        2**32 - 2,
        2**32 - 1,
        0,
    ]


def planned(num_frames: int = 25, **changes: Any) -> tuple[list[str], list[Any]]:
    """The names of the steps of a clip, and what each knows."""
    graph = clip_graph(clip(num_frames).model_copy(update=changes), ENGINE, "cpu", SETTINGS)
    assert graph.result_step == graph.steps[-1].name
    for index, step in enumerate(graph.steps):
        assert set(step.needs) <= {earlier.name for earlier in graph.steps[:index]}
    new = graph.new_steps()
    assert [PARAMS.validate_python(step.params) for step in new] == [step.params for step in graph.steps]
    return [step.name for step in graph.steps], [step.params for step in graph.steps]


@pytest.mark.parametrize("prompt", ["a cat", ""])
@pytest.mark.parametrize(
    "changes", [{}, {"num_frames": 60}, {"num_frames": 60, "smooth_fps": 60}, {"num_frames": 60, "continues": 9}]
)
def test_recorded_steps_have_no_prompt_and_with_their_tasks_they_are_as_they_were_planned(
    changes: dict[str, int], prompt: str
) -> None:
    graph = clip_graph(clip(25).model_copy(update=changes | {"prompt": prompt}), ENGINE, "cpu", SETTINGS)
    of_0019 = [step.params.model_dump(exclude_none=True) for step in graph.steps]  # which held it
    recorded = [step.params for step in graph.new_steps()]
    assert "prompt" in json.dumps(of_0019)
    assert "prompt" not in json.dumps(recorded)
    for params in (recorded, of_0019):
        read = [PARAMS.validate_python(each).with_prompt(prompt) for each in params]
        assert read == [step.params for step in graph.steps]


def test_a_plain_clip_is_one_step_that_shows_itself() -> None:
    names, (render,) = planned()
    assert names == ["clip"]
    assert render == RenderClip(engine="svd-xt", settings=clip(25).settings, crf=18)


def test_what_is_smoothed_is_passed_on_nearly_without_loss_and_shown_once() -> None:
    names, (render, smooth) = planned(fps=7, smooth_fps=30)
    assert names == ["clip", "smooth"]
    assert (render.crf, render.shows, render.drop_first) == (8, False, False)
    assert smooth == SmoothClip(width=1024, height=576, fps=7, smooth_fps=30, num_frames=24 * 30 // 7 + 1, crf=18)


def test_a_clip_that_goes_on_begins_with_the_last_frame_and_drops_it() -> None:
    names, (render, join) = planned(continues=100)
    assert names == ["clip", "join"]
    assert (render.begins_with, render.drop_first, render.shows, render.crf) == ("last_frame", True, False, 18)
    assert join == JoinClips(after_input=True, crf=18, parameters={"continues": 100})
    names, (render, smooth, join) = planned(continues=100, fps=7, smooth_fps=30)
    assert names == ["clip", "smooth", "join"]
    assert (render.drop_first, smooth.drop_first, smooth.num_frames) == (False, True, 24 * 30 // 7)


def test_a_long_clip_is_parts_that_keep_what_the_next_goes_on_from() -> None:
    names, (*renders, join) = planned(60)
    assert names == ["clip-1", "clip-2", "clip-3", "join-parts"]
    assert [each.begins_with for each in renders] == ["picture", "part", "part"]
    assert [each.continuity for each in renders] == [True, True, False]
    assert sum(each.adds for each in renders) == 60
    assert not any(each.shows or each.drop_first for each in renders)
    assert (join.after_input, join.crf, join.shows) == (False, 18, True)
    assert join.parameters == clip(60).model_dump(exclude_none=True, exclude={"engine"})


def test_a_long_smooth_clip_that_goes_on_is_all_of_it() -> None:
    names, steps = planned(60, continues=9, fps=7, smooth_fps=30)
    assert names == ["clip-1", "clip-2", "clip-3", "join-parts", "smooth", "join"]
    assert [each.crf for each in steps] == [8, 8, 8, 8, 18, 18]
    assert [each.begins_with for each in steps[:3]] == ["last_frame", "part", "part"]
    assert (steps[3].shows, steps[4].drop_first, steps[5].after_input) == (False, True, True)
    assert "continues" not in steps[3].parameters
    assert steps[5].parameters == {"continues": 9}
