"""The same again is the same bytes: whatever lies in memory that nobody wrote, and whatever the processor can do."""

import hashlib
import json
import os
import platform
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from core.plan.parts import OVERLAP
from core.requests.clip import Clip
from harness.pictures import SAMPLES
from tests.worker.test_mp4 import moving
from worker.attempt import Attempt
from worker.engines.camera import prepare, shoot
from worker.media import mp4
from worker.media.continuity import ContinuityState, append_part, as_png, colours_of
from worker.media.mp4 import encode_each, encode_mp4, first_frame_jpeg, in_bt709, spritesheet_jpeg
from worker.media.smooth import smoothed
from worker.media.video import header_of, join_mp4, stored_frames
from worker.media.webp import small_webp
from worker.media.yuv import as_rgb

Frames = NDArray[np.uint8]

ROOT = Path(__file__).parents[2]

# Sides that are no multiple of 16, or few blocks wide, or few high: rows whose end is not that of a register. The last
# is how many times.
SMALL = [(9, 96, 64, 100), (9, 96, 66, 60), (9, 66, 98, 60), (6, 64, 640, 40), (6, 640, 64, 30), (8, 320, 176, 25)]


@pytest.fixture
def memory_in_use() -> Callable[[], None]:
    """Call it to have memory taken and given back, so that the next thing gets some that others wrote to."""
    random, held = np.random.default_rng(0), deque[Frames](maxlen=7)
    return lambda: held.append(random.integers(0, 256, int(random.integers(1_000, 1_000_000)), np.uint8))


def encoded(frames: Frames) -> bytes:
    with TemporaryDirectory() as folder:
        encode_mp4(frames, 7, 18, Path(folder) / "video.mp4")
        return (Path(folder) / "video.mp4").read_bytes()


@pytest.mark.parametrize(("count", "width", "height", "times"), SMALL)
def test_small_frames_are_one_file_however_often_they_are_encoded(
    count: int, width: int, height: int, times: int, memory_in_use: Callable[[], None]
) -> None:
    frames, files = moving(count, width, height), set()
    for _ in range(times):
        memory_in_use()
        files.add(encoded(frames))
    assert len(files) == 1


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the name is one of x86's instruction sets")
def test_a_processor_of_twenty_years_ago_would_encode_the_same_file(monkeypatch: pytest.MonkeyPatch) -> None:
    here = [encoded(moving(*size)) for *size, _ in SMALL]
    monkeypatch.setitem(mp4.X264, "x264-params", mp4.X264["x264-params"] + ":asm=SSE2")
    assert [encoded(moving(*size)) for *size, _ in SMALL] == here


def test_what_was_encoded_before_it_was_held_to_that_is_still_joined_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, free = tmp_path / "held.mp4", tmp_path / "free.mp4"
    encode_mp4(moving(5), 7, 18, held)
    monkeypatch.delitem(mp4.X264, "x264-params")
    encode_mp4(moving(5), 7, 18, free)
    assert header_of(free) == header_of(held)


def joined(frames: Frames, *qualities: int) -> bytes:
    with TemporaryDirectory() as folder:
        parts = [Path(folder) / f"{index}.mp4" for index in range(len(qualities))]
        for part, quality in zip(parts, qualities, strict=True):
            encode_mp4(frames, 7, quality, part)
        join_mp4(parts, Path(folder) / "video.mp4", 18, lambda: None)
        return (Path(folder) / "video.mp4").read_bytes()


def made_smooth(frames: Frames) -> bytes:
    with TemporaryDirectory() as folder:
        before, after = Path(folder) / "before.mp4", Path(folder) / "after.mp4"
        encode_mp4(frames, 7, 8, before)
        height, width = frames.shape[1:3]
        encode_each(smoothed(stored_frames(before), 7, 30), 13, (width, height), 30, 18, after, lambda done: None)
        return after.read_bytes()


def previewed(width: int, height: int) -> bytes:
    clip = Clip(engine="preview", width=width, height=height, num_frames=6, fps=7, seed=1, fit="cover", quality=18)
    with Image.open(SAMPLES / "cat.jpg") as picture:
        return shoot(*prepare(picture.convert("RGB"), clip), clip, Attempt()).tobytes()


def sewn(frames: Frames) -> bytes:
    before = ContinuityState(frames[:OVERLAP][::-1] // 2, colours_of(frames // 2))
    made, after = append_part(frames.copy(), len(frames) - OVERLAP, before, goes_on=True)
    assert after
    return made.tobytes() + as_png(after.frames)


def off_by_one(frames: Frames) -> Frames:
    """The same frames at an odd address."""
    room = np.empty(frames.size + 1, np.uint8)
    room[1:] = frames.reshape(-1)
    return room[1:].reshape(frames.shape)


def as_yuv(frames: Frames) -> Frames:
    height, width = frames.shape[1:3]
    return np.stack([frame.to_ndarray() for frame in in_bt709(frames, width, height, 7)]).astype(np.uint8)


def kinds() -> dict[str, Callable[[], bytes]]:
    """All that is made on the CPU of frames, by a name."""
    frames, odd = moving(9, 96, 66), moving(9, 66, 98)
    yuv = as_yuv(frames)
    return {
        **{
            f"mp4 {width}x{height}": partial(encoded, moving(count, width, height)) for count, width, height, _ in SMALL
        },
        "mp4 of yuv": partial(encoded, yuv),
        "mp4 with several key frames": partial(encoded, moving(130, 96, 64)),
        "yuv": lambda: as_yuv(odd).tobytes() + as_yuv(off_by_one(odd)).tobytes(),
        "rgb": lambda: b"".join(as_rgb(frame).tobytes() for frame in off_by_one(yuv)),
        "join as it is": partial(joined, frames, 18, 18),
        "join encoded anew": partial(joined, frames, 18, 30),
        "smooth": partial(made_smooth, moving(4, 224, 160)),
        "webp": lambda: small_webp(frames, 7) + small_webp(yuv, 7),
        "thumbnail": partial(first_frame_jpeg, moving(1, 1026, 578)),
        "spritesheet": lambda: spritesheet_jpeg(list(moving(7, 322, 178))),
        "preview": partial(previewed, 224, 160),
        "parts of a long clip": partial(sewn, moving(12, 96, 66)),
    }


def digests() -> dict[str, str]:
    return {kind: hashlib.sha256(make()).hexdigest() for kind, make in kinds().items()}


@pytest.mark.parametrize("kind", kinds())
def test_each_thing_that_is_made_of_frames_is_the_same_each_time(kind: str, memory_in_use: Callable[[], None]) -> None:
    make, made = kinds()[kind], set()
    for _ in range(6):
        memory_in_use()
        made.add(make())
    assert len(made) == 1


def elsewhere(threads: int, unwritten: int) -> dict[str, str]:
    """What a process makes that has so many cores and threads, and whose memory is full of a byte until it is written
    to (glibc's MALLOC_PERTURB_)."""
    number = str(threads)
    limits = {"OMP_NUM_THREADS": number, "OPENBLAS_NUM_THREADS": number, "OPENCV_FOR_THREADS_NUM": number}
    code = f"""if True:
        import json, os
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:{threads}])
        from {__name__} import digests
        print(json.dumps(digests()))
    """
    process = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | limits | {"MALLOC_PERTURB_": str(unwritten)},
        capture_output=True,
        check=True,
        text=True,
        timeout=60,
    )
    made: dict[str, str] = json.loads(process.stdout)
    return made


def test_neither_threads_nor_what_lies_in_memory_changes_what_is_made() -> None:
    with ThreadPoolExecutor() as pool:
        one, other = pool.map(elsewhere, (1, 2), (1, 170))
    assert one == other == digests()
