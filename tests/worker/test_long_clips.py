"""A long clip through its steps: parts, each from the end of the one before, and their join."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from core.errors import StorageUnavailable
from core.requests.clip import Clip, ClipSettings
from core.status import Status
from core.task import Task
from harness.pictures import SAMPLES
from tests.worker.conftest import clip_task, stored
from tests.worker.test_runner import do
from worker.attempt import Attempt
from worker.engines.camera import Camera
from worker.media.video import frames_of
from worker.run.runner import WorkerContext

AT_ONCE = 10
TURN = 2  # pixels a frame
LIGHTER = 4  # a part, than the picture it begins with

Frames = NDArray[np.uint8]


class Model:
    """A stand-in: the picture turns around its own edge, and comes out lighter."""

    def __init__(self) -> None:
        self.made: list[Frames] = []
        self.prompts: list[str | None] = []
        self.fails_at: int | None = None

    def render(self, picture: Image.Image, clip: ClipSettings, attempt: Attempt) -> Frames:
        with attempt.phase("render"):
            if len(self.made) == self.fails_at:
                self.fails_at = None
                raise StorageUnavailable("for once")
            self.prompts.append(clip.prompt)
            first = np.asarray(picture.resize((clip.width, clip.height))).astype(int) + LIGHTER
            turned = [np.roll(first, TURN * number, axis=1) for number in range(clip.num_frames)]
            self.made.append(np.stack(turned).clip(0, 255).astype(np.uint8))
            return self.made[-1]


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Model:
    model = Model()
    monkeypatch.setattr(Camera, "render", lambda self, *given: model.render(*given))
    return model


def make(context: WorkerContext, num_frames: int = 26, before: Path | None = None, **changes: Any) -> Task:
    """`before`: a video that goes on."""
    engine = replace(context.engine_host.default_engine, frames_at_once=AT_ONCE)
    wanted = {"engine": "preview", "num_frames": num_frames, "width": 128, "height": 64, "seed": 3, "quality": 4}
    wanted |= {"continues": before and len(list(frames_of(before)))} | changes
    clip = Clip.model_validate(engine.defaults | wanted)
    task = clip_task(context, clip, engine)
    context.storage.put(task.inputs[0].key, (before or SAMPLES / "cat.jpg").read_bytes())
    ready = context.ledger.create(task)
    while ready:  # as wake-ups would
        do(ready[0].step_id, context)
        ready = context.ledger.steps_to_wake(0)
    return context.ledger.task(task.task_id)


def video_of(task: Task, context: WorkerContext) -> Frames:
    assert task.status == Status.FINISHED, task.error
    path = context.settings.data_dir / "video.mp4"
    path.write_bytes(stored(context, task.task_id, "video"))
    return np.stack(list(frames_of(path)))


def turn(one: Frames, other: Frames) -> int:
    """By how many pixels, from 0 to 5."""
    apart = [np.abs(np.roll(one, pixels, axis=1).astype(int) - other).mean() for pixels in range(6)]
    return int(np.argmin(apart))


def test_motion_goes_on_over_all_passes(context: WorkerContext, model: Model) -> None:
    video = video_of(make(context), context)
    assert len(video) == 26
    assert [len(frames) for frames in model.made] == [AT_ONCE] * 5
    assert {turn(*pair) for pair in pairwise(video)} == {TURN}


def test_a_long_clip_keeps_the_colours_that_it_began_with(context: WorkerContext, model: Model) -> None:
    means = video_of(make(context), context).mean(axis=(1, 2, 3))
    assert np.ptp(means) < 2, "each of five parts is lighter by 4"


def test_a_part_that_fails_is_made_again_alone(
    context: WorkerContext, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.ledger.retries.RETRY_PAUSES", (0.0,))
    undisturbed = make(context)
    model.made.clear()
    model.fails_at = 2
    task = make(context)
    assert (len(model.made), model.fails_at) == (5, None)
    assert [len(video_of(each, context)) for each in (undisturbed, task)] == [26, 26]
    first, second = (each.receipt or {} for each in (undisturbed, task))
    assert second["output_sha256"] == first["output_sha256"]


def test_a_video_goes_on_for_several_passes(context: WorkerContext, model: Model, tmp_path: Path) -> None:
    before = tmp_path / "before.mp4"
    before.write_bytes(stored(context, make(context, AT_ONCE).task_id, "video"))
    video = video_of(make(context, before=before), context)
    assert len(video) == AT_ONCE + 26 - 1
    assert {turn(*pair) for pair in pairwise(video)} == {TURN}


def test_motion_goes_on_evenly_where_a_smooth_video_does(context: WorkerContext, model: Model, tmp_path: Path) -> None:
    before = tmp_path / "before.mp4"
    before.write_bytes(stored(context, make(context, AT_ONCE, smooth_fps=14).task_id, "video"))
    video = video_of(make(context, AT_ONCE, before=before, smooth_fps=14), context)
    assert len(video) == 2 * 19 - 1
    assert {turn(*pair) for pair in pairwise(video)} == {TURN // 2}


def test_a_long_smooth_extension_says_what_it_is(context: WorkerContext, model: Model, tmp_path: Path) -> None:
    before = tmp_path / "before.mp4"
    before.write_bytes(stored(context, make(context, AT_ONCE, smooth_fps=14).task_id, "video"))
    task = make(context, before=before, smooth_fps=14)
    assert len(video_of(task, context)) == 19 + 2 * 25
    assert task.receipt
    assert len(task.receipt["parts"]) == 5
    assert (task.receipt["parameters"]["continues"], task.receipt["parameters"]["num_frames"]) == (19, 26)


def test_the_receipt_tells_of_every_part(context: WorkerContext, model: Model) -> None:
    receipt = make(context).receipt
    assert receipt
    assert receipt["parameters"]["num_frames"] == 26
    assert [each["seed"] for each in receipt["parts"]] == [3, 4, 5, 6, 7]
    assert {each["device"] for each in receipt["parts"]} == {"cpu"}
    assert all({"seconds", "output_sha256", "decode_chunk_size"} <= set(each) for each in receipt["parts"])
    assert "colours" not in receipt
    assert "part" not in receipt["parameters"]


def test_an_engine_is_given_the_prompt_and_no_step_keeps_it(context: WorkerContext, model: Model) -> None:
    task = make(context, prompt="a cat blinks")
    assert model.prompts == ["a cat blinks"] * 5
    _, steps = context.ledger.task_with_steps(task.task_id)
    assert all(step.receipt for step in steps)
    assert not [step for step in steps if "blinks" in str((step.params, step.receipt))]


def test_a_clip_of_no_more_than_one_pass_is_one_step(context: WorkerContext, model: Model) -> None:
    task = make(context, AT_ONCE)
    assert len(model.made) == 1
    assert task.receipt
    assert "parts" not in task.receipt
