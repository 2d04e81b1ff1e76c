"""Frames between frames: what they show, when they are due, and the step that makes them."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from fractions import Fraction
from io import BytesIO
from itertools import islice, pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from core.requests.clip import Clip
from core.status import Status
from core.storage import input_key
from core.task import Task
from harness.pictures import SAMPLES
from tests.worker.conftest import clip_task, stored
from tests.worker.test_join import mp4
from tests.worker.test_mp4 import moving
from tests.worker.test_runner import do, picture
from worker.attempt import Attempt
from worker.media.fit import resample
from worker.media.mp4 import encoder
from worker.media.smooth import Motion, between, luma, moments, smoothed
from worker.media.video import stored_frames
from worker.media.yuv import planes
from worker.run.runner import WorkerContext

Bytes = NDArray[np.uint8]
WIDTH, HEIGHT = 320, 192
Box = tuple[float, float, float, float]


def photograph(name: str = "cat") -> Image.Image:
    return Image.open(SAMPLES / f"{name}.jpg").convert("RGB").resize((600, 400), Image.Resampling.LANCZOS)


def seen(box: Box, name: str = "cat") -> Bytes:
    """What a camera sees of a photograph, as worker/media/yuv.py has it."""
    y, u, v = planes(resample(photograph(name), (WIDTH, HEIGHT), box))
    half = WIDTH // 2, HEIGHT // 2
    return np.concatenate(
        [np.asarray(y), *(np.asarray(plane.resize(half)) for plane in (u, v))], axis=None, dtype=np.uint8
    ).reshape(HEIGHT * 3 // 2, WIDTH)


def panned(time: float) -> Bytes:
    """15 pixels to the right and 7 down by the time 1."""
    left, top = 100 + 15 * time, 80 + 7 * time
    return seen((left, top, left + WIDTH, top + HEIGHT))


def zoomed(time: float) -> Bytes:
    """A tenth nearer by the time 1."""
    near = 1 - 0.1 * time
    return seen((300 - 200 * near, 200 - 120 * near, 300 + 200 * near, 200 + 120 * near))


def psnr(one: Bytes, other: Bytes) -> float:
    """Away from the edges, beyond which nobody saw anything."""
    inner = np.s_[20:-20, 20:-20]
    error = (luma(one)[inner].astype(float) - luma(other)[inner]) ** 2
    return float(10 * np.log10(255**2 / error.mean()))


@pytest.mark.parametrize("moment", [0.25, 0.5, 0.8])
@pytest.mark.parametrize(("camera", "least"), [(panned, 48), (zoomed, 40)])
def test_what_moves_is_where_it_should_be_at_each_moment(
    camera: Callable[[float], Bytes], least: float, moment: float
) -> None:
    (found,) = between(camera(0), camera(1), [moment])
    blended = ((1 - moment) * camera(0) + moment * camera(1)).round().astype(np.uint8)
    assert psnr(found, camera(moment)) > max(least, 12 + psnr(blended, camera(moment)))


def test_colours_move_along(tmp_path: Path) -> None:
    (found,) = between(panned(0), panned(1), [0.5])
    chroma = found[HEIGHT:].astype(int)
    assert np.abs(chroma - panned(0.5)[HEIGHT:]).mean() < 1
    assert np.abs(chroma - panned(0)[HEIGHT:]).mean() > 1


def test_what_comes_out_from_behind_something_is_there_halfway() -> None:
    """A dark square in front of a wall goes 12 pixels to the right: to its left the first frame hides the wall."""
    wall = seen((100, 80, 420, 272))

    def at(left: int) -> Bytes:
        frame = wall.copy()
        frame[60:120, left : left + 60] = 30
        return frame

    (found,) = between(at(100), at(112), [0.5])
    uncovered = np.s_[62:118, 101:105]
    assert np.abs(found[uncovered].astype(int) - wall[uncovered]).mean() < 12
    assert np.abs(at(100)[uncovered].astype(int) - wall[uncovered]).mean() > 60, "it was hidden"


@pytest.mark.parametrize(("one", "other"), [("cat", "coffee"), ("coffee", "cat")])
def test_at_a_cut_the_nearer_frame_stays(one: str, other: str) -> None:
    first, second = seen((100, 80, 420, 272), one), seen((100, 80, 420, 272), other)
    assert Motion(first, second).is_cut
    found = between(first, second, [0.1, 0.49, 0.5, 0.9])
    assert [np.array_equal(frame, first) for frame in found] == [True, True, False, False]
    assert [np.array_equal(frame, second) for frame in found] == [False, False, True, True]


def test_a_fast_pan_is_no_cut() -> None:
    assert not Motion(seen((0, 80, 320, 272)), seen((30, 80, 350, 272))).is_cut


rates = st.integers(1, 29).flatmap(lambda fps: st.tuples(st.just(fps), st.integers(max(2, fps + 1), 30)))


@given(rates, st.integers(2, 25))
def test_each_frame_is_due_at_its_multiple_of_the_new_rate(given_rates: tuple[int, int], num_frames: int) -> None:
    fps, smooth_fps = given_rates
    due = [(index, moment) for index in range(num_frames) for moment in moments(index, fps, smooth_fps)]
    due = [(index, moment) for index, moment in due if index < num_frames - 1 or moment == 0]
    assert all(0 <= moment < 1 for _, moment in due)
    seconds = [Fraction(index + Fraction(moment).limit_denominator(30)) / fps for index, moment in due]
    assert seconds == [Fraction(j, smooth_fps) for j in range(len(due))]
    assert seconds[-1] + Fraction(1, smooth_fps) > Fraction(num_frames - 1, fps)
    clip = Clip(
        engine="svd", width=64, height=64, num_frames=num_frames, fps=fps, seed=1, fit="cover", quality=18
    ).model_copy(update={"smooth_fps": smooth_fps})
    assert len(due) == clip.frames_played


def test_frames_of_the_same_moment_are_the_very_same() -> None:
    frames = [panned(time) for time in range(5)]
    found = list(smoothed(frames, 2, 3))  # those at 0, 1, 2 s are at 0, 3, 6
    assert len(found) == 4 * 3 // 2 + 1
    assert all(np.array_equal(found[3 * index], frames[2 * index]) for index in range(3))
    assert not any(np.array_equal(found[1], frame) for frame in frames)


@pytest.mark.parametrize("size", [(64, 64), (1024, 64), (64, 1024), (66, 130)])
def test_any_size_that_an_engine_makes_can_be_smoothed(size: tuple[int, int]) -> None:
    width, height = size
    frames = [np.roll(np.full((height * 3 // 2, width), 99, np.uint8), shift) for shift in range(3)]
    assert [frame.shape for frame in smoothed(frames, 7, 9)] == [(height * 3 // 2, width)] * 3


def test_the_number_of_cores_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [zoomed(time) for time in range(4)]
    made = []
    for cores in (1, 5):
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        made.append(np.stack(list(smoothed(frames, 7, 16))))
    assert np.array_equal(*made)


def test_no_more_frames_are_read_than_are_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    read = []

    def endless() -> Iterator[Bytes]:
        while True:
            read.append(np.full((96, 64), 128, np.uint8))
            yield read[-1]

    with closing(smoothed(endless(), 10, 20)) as frames:
        for index, _ in enumerate(islice(frames, 60)):
            assert len(read) <= index // 2 + 5, "two that are worked on, the next one, and its other end"


def test_what_is_stopped_in_the_middle_leaves_no_thread() -> None:
    with closing(smoothed([panned(time / 9) for time in range(9)], 7, 30)) as frames:
        next(frames)
        assert [thread for thread in threading.enumerate() if thread.name.startswith("smooth")]
    assert [thread for thread in threading.enumerate() if thread.name.startswith("smooth")] == []


def begin(context: WorkerContext, continues: int | None = None, **asked: int) -> Task:
    """A clip of 6 frames, 7 a second, to be smoothed to 30; the way to join it to what it continues besides."""
    clip = Clip(engine="preview", width=256, height=144, num_frames=6, fps=7, seed=1, fit="cover", quality=18)
    clip = clip.model_copy(update={"motion": "zoom_in", "smooth_fps": 30, "continues": continues} | asked)
    task = clip_task(context, clip)
    context.ledger.create(task)
    return context.ledger.task(task.task_id)


def finish(context: WorkerContext, task: Task) -> Task:
    while ready := context.ledger.steps_to_wake(0):  # as wake-ups would
        do(ready[0].step_id, context)
    return context.ledger.task(task.task_id)


def smooth(context: WorkerContext) -> Task:
    task = begin(context)
    data = BytesIO()
    photograph().save(data, "PNG")
    context.storage.put(input_key(task.task_id, "picture"), data.getvalue())
    return finish(context, task)


def test_a_smoothed_clip_has_its_frames_its_rate_and_its_pictures(context: WorkerContext, tmp_path: Path) -> None:
    task = smooth(context)
    assert task.status == Status.FINISHED
    video = tmp_path / "video.mp4"
    video.write_bytes(stored(context, task.task_id, "video"))
    with av.open(video) as container:
        (stream,) = container.streams
        assert (stream.frames, stream.average_rate) == (5 * 30 // 7 + 1, 30)
    sheet = Image.open(BytesIO(stored(context, task.task_id, "spritesheet")))
    assert sheet.size == (5 * 256, 5 * 144), "of 22 frames, not of 6"
    assert Image.open(BytesIO(stored(context, task.task_id, "thumbnail"))).size == (
        256,
        144,
    )


def test_the_receipt_says_how_the_clip_was_smoothed(context: WorkerContext) -> None:
    receipt = smooth(context).receipt
    assert receipt is not None
    assert set(receipt["smoothing"]["libraries"]) == {"opencv", "numpy", "av"}
    assert receipt["encoder"] == encoder()
    assert receipt["parameters"]["smooth_fps"] == 30
    assert {"render", "smooth_smooth"} <= set(receipt["seconds"])
    assert receipt["clip_sha256"] != receipt["output_sha256"]


def test_only_what_goes_on_is_smoothed_and_it_begins_where_the_video_ended(
    context: WorkerContext, tmp_path: Path
) -> None:
    before = mp4(moving(9, 256, 144), tmp_path / "before.mp4")
    task = begin(context, continues=9)
    context.storage.put(input_key(task.task_id, "video"), before.read_bytes())
    task = finish(context, task)
    assert task.status == Status.FINISHED
    video = tmp_path / "video.mp4"
    video.write_bytes(stored(context, task.task_id, "video"))
    frames = list(stored_frames(video))
    assert len(frames) == Clip.model_validate(task.params).frames_in_all == 9 + 22 - 1
    steps = [np.abs(luma(one).astype(int) - luma(other)).mean() for one, other in pairwise(frames[8:])]
    assert 0 < steps[0] < 3 * np.mean(steps[1:]), "no frame is there twice, and none jumps"


def test_a_clip_that_is_gone_cannot_be_smoothed_and_that_is_said(context: WorkerContext) -> None:
    task = begin(context)
    context.storage.put(input_key(task.task_id, "picture"), picture())
    do(context.ledger.steps_to_wake(0)[0].step_id, context)
    context.storage.delete_task(task.task_id)
    ended = finish(context, task)
    assert ended.error is not None
    assert (ended.status, ended.error.code) == (Status.FAILED, "input_missing")


def test_smoothing_stops_where_its_task_is_canceled(context: WorkerContext, monkeypatch: pytest.MonkeyPatch) -> None:
    task = begin(context)
    context.storage.put(input_key(task.task_id, "picture"), picture())
    do(context.ledger.steps_to_wake(0)[0].step_id, context)
    advance = Attempt.advance

    def canceled_at_the_third_frame(attempt: Attempt, done: int, total: int) -> None:
        if done == 3:
            attempt.stop()  # as the lease does
            context.ledger.cancel(task.task_id)
        advance(attempt, done, total)

    monkeypatch.setattr(Attempt, "advance", canceled_at_the_third_frame)
    ended = finish(context, task)
    assert (ended.status, context.ledger.artifacts(task.task_id)) == (Status.CANCELED, {})
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("smooth")]
