"""A video that goes on: the clip that continues it begins where it ends, and both are one file."""

import itertools
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from chaos.load import graph
from core.engines.camera import MOTIONS
from core.engines.known import find_engine
from core.errors import EncodingFailed
from core.ids import new_id
from core.requests.clip import Clip
from core.status import Status
from core.storage import input_key
from core.task import Task
from harness.pictures import SAMPLES
from tests.worker.conftest import clip_task, stored
from tests.worker.test_mp4 import key_frames, moving
from tests.worker.test_runner import do
from worker.attempt import Attempt
from worker.engines.camera import Camera
from worker.media.mp4 import encode_mp4, tile_indices
from worker.media.video import frames_of, header_of, join_mp4, last_frame
from worker.run.runner import WorkerContext

Frames = NDArray[np.uint8]


def mp4(frames: Frames, path: Path, quality: int = 18) -> Path:
    encode_mp4(frames, 7, quality, path)
    return path


def difference(first: Frames, second: Frames) -> float:
    return float(np.abs(first.astype(int) - second.astype(int)).mean())


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[list[Path]]:
    frames = moving(25, 256, 144)
    return [mp4(frames[:13], tmp_path / "a.mp4"), mp4(frames[13:], tmp_path / "b.mp4")]


def test_what_was_encoded_alike_is_copied_frame_for_frame(parts: list[Path], tmp_path: Path) -> None:
    joined = tmp_path / "joined.mp4"
    assert join_mp4(parts, joined, 18, lambda: None) == (25, False)
    assert header_of(joined) == header_of(parts[0])
    frames = list(frames_of(joined))
    apart = [frame for part in parts for frame in frames_of(part)]
    assert all(np.array_equal(*pair) for pair in zip(frames, apart, strict=True))


def test_frames_keep_their_distance_where_the_parts_meet(tmp_path: Path) -> None:
    """73 frames at 30 a second last no whole number of milliseconds."""
    part, joined = tmp_path / "part.mp4", tmp_path / "joined.mp4"
    encode_mp4(moving(73, 64, 64), 30, 18, part)
    join_mp4([part, part, part], joined, 18, lambda: None)
    with av.open(joined) as container:
        times = sorted(packet.pts for packet in container.demux(video=0) if packet.pts is not None)
        assert len(times) == 3 * 73
        assert {after - before for before, after in itertools.pairwise(times)} == {times[1] - times[0]}


def test_what_an_earlier_version_made_with_fewer_key_frames_is_still_joined_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That had one every 250 frames, by x264's default."""
    frames = moving(290, 64, 64)
    monkeypatch.setattr("worker.media.mp4.key_frame_distance", lambda count: 250)
    earlier = mp4(frames[:270], tmp_path / "earlier.mp4")
    monkeypatch.undo()
    now = [mp4(frames[270:], tmp_path / "now.mp4"), mp4(moving(70, 64, 64), tmp_path / "more.mp4")]
    joined = tmp_path / "joined.mp4"
    assert join_mp4([earlier, *now], joined, 18, lambda: None) == (360, False)
    assert key_frames(joined) == [0, 250, 270, 290, 290 + 35]
    apart = [frame for part in [earlier, *now] for frame in frames_of(part)]
    assert all(np.array_equal(*pair) for pair in zip(frames_of(joined), apart, strict=True))


def test_what_is_encoded_anew_has_its_key_frames_evenly(tmp_path: Path) -> None:
    parts = [mp4(moving(80, 64, 64), tmp_path / f"{quality}.mp4", quality) for quality in (18, 30)]
    assert join_mp4(parts, tmp_path / "joined.mp4", 18, lambda: None) == (160, True)
    assert key_frames(tmp_path / "joined.mp4") == [0, 54, 108]


def test_what_was_encoded_otherwise_is_encoded_anew(parts: list[Path], tmp_path: Path) -> None:
    other = mp4(moving(25, 256, 144)[13:], tmp_path / "c.mp4", quality=30)
    assert header_of(other) != header_of(parts[0])
    assert join_mp4([parts[0], other], tmp_path / "joined.mp4", 18, lambda: None) == (25, True)
    frames = np.stack(list(frames_of(tmp_path / "joined.mp4")))
    assert difference(frames, moving(25, 256, 144)) < 3


def test_the_last_frame_is_the_last_one(parts: list[Path]) -> None:
    *_, last = frames_of(parts[0])
    assert np.array_equal(last_frame(parts[0]), last)
    assert difference(last, moving(25, 256, 144)[12]) < 2


def test_a_file_that_is_no_video_is_said_to_be_none(tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video at all" * 100)
    with pytest.raises(EncodingFailed, match="cannot be read"):
        last_frame(broken)


@pytest.mark.parametrize(("count", "tiles"), [(1, 1), (2, 2), (24, 24), (25, 25), (26, 25), (600, 25)])
def test_a_spritesheet_shows_the_first_frame_the_last_and_what_lies_between(count: int, tiles: int) -> None:
    found = tile_indices(count)
    assert (len(set(found)), found[0], found[-1]) == (tiles, 0, count - 1)


CLIP = Clip(engine="preview", width=256, height=144, num_frames=6, fps=7, seed=1, fit="cover", quality=18)


def extension(context: WorkerContext, before: bytes, frames_before: int, clip: Clip = CLIP) -> Task:
    task = clip_task(context, clip.model_copy(update={"continues": frames_before}))
    context.storage.put(input_key(task.task_id, "video"), before)
    ready = context.ledger.create(task)
    while ready:  # as wake-ups would
        do(ready[0].step_id, context)
        ready = context.ledger.steps_to_wake(0)
    return context.ledger.task(task.task_id)


def test_an_extension_continues_from_the_last_frame_and_joins(
    context: WorkerContext, parts: list[Path], tmp_path: Path
) -> None:
    task = extension(context, parts[0].read_bytes(), 13)
    assert task.status == Status.FINISHED
    joined = tmp_path / "joined.mp4"
    joined.write_bytes(stored(context, task.task_id, "video"))
    frames = list(frames_of(joined))
    assert len(frames) == Clip.model_validate(task.params).frames_in_all == 13 + 6 - 1
    # The cut is no larger than the steps around it: no frame is there twice, and none jumps.
    steps = [difference(*pair) for pair in itertools.pairwise(frames)]
    assert 0.05 < steps[12] < 2 * max(steps[:12])
    sheet = Image.open(BytesIO(stored(context, task.task_id, "spritesheet")))
    assert sheet.size == (5 * 256, 4 * 144)
    assert Image.open(BytesIO(stored(context, task.task_id, "thumbnail"))).size == (
        256,
        144,
    )


@pytest.mark.parametrize("fit", ["cover", "contain"])
@pytest.mark.parametrize("motion", MOTIONS)
def test_a_preview_goes_on_without_a_jump_whatever_the_camera_did_and_does(
    context: WorkerContext, photo: Image.Image, tmp_path: Path, motion: str, fit: str
) -> None:
    clip = CLIP.model_copy(update={"num_frames": 15, "fit": fit, "motion": motion})
    camera = Camera(find_engine("preview", context.settings), context.settings)
    before = mp4(camera.render(photo, clip, Attempt(Camera.phases)), tmp_path / "before.mp4")
    for going_on in MOTIONS[1:]:
        task = extension(context, before.read_bytes(), 15, clip.model_copy(update={"motion": going_on}))
        (tmp_path / "joined.mp4").write_bytes(stored(context, task.task_id, "video"))
        frames = list(frames_of(tmp_path / "joined.mp4"))
        assert len(frames) == 2 * 15 - 1
        steps = [difference(*pair) for pair in itertools.pairwise(frames)]
        seam = steps.pop(14)
        assert 0 < seam < 0.8 * max(steps), going_on


def test_the_receipt_of_an_extension_tells_of_its_clip_too(context: WorkerContext, parts: list[Path]) -> None:
    task = extension(context, parts[0].read_bytes(), 13)
    assert task.receipt is not None
    assert {"engine", "parameters", "clip_sha256", "output_sha256", "seconds"} <= set(task.receipt)
    assert {"render", "join_join"} <= set(task.receipt["seconds"])
    assert set(task.receipt["parameters"]) <= set(task.params)
    assert task.receipt["clip_sha256"] != task.receipt["output_sha256"]


@pytest.mark.parametrize(("quality", "named"), [(18, "libx264"), (30, "a later one")])
def test_the_receipt_names_what_encoded_the_frames_that_are_in_the_video(
    context: WorkerContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quality: int, named: str
) -> None:
    """What is joined as it is was encoded before; the rest is encoded by whatever joins."""
    monkeypatch.setattr("worker.steps.join.encoder", lambda: {"name": "a later one"})
    before = mp4(moving(13, 256, 144), tmp_path / "before.mp4", quality)
    receipt = extension(context, before.read_bytes(), 13).receipt
    assert receipt is not None
    assert receipt["encoder"]["name"] == named


def test_an_extension_of_what_is_no_video_fails_and_says_so(context: WorkerContext) -> None:
    task = extension(context, b"no video", 13)
    assert task.error is not None
    assert (task.status, task.error.code) == (Status.FAILED, "encoding_failed")


def test_every_step_of_the_graphs_of_chaos_is_one_that_its_kind_understands(context: WorkerContext) -> None:
    new = graph(new_id(), "http://127.0.0.1:9/")
    context.storage.put(input_key(new.task_id, "picture"), (SAMPLES / "cat.jpg").read_bytes())
    ready, done = context.ledger.create(new), 0
    while ready:
        do(ready[0].step_id, context)
        ready, done = context.ledger.steps_to_wake(0), done + 1
    task = context.ledger.task(new.task_id)
    assert (task.status, task.error, done) == (Status.FINISHED, None, 30)
    assert {len(step.needs) for step in new.steps} == {0, 1, 14}
