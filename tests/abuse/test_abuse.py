"""Every file of the corpus through the real service: an answer with a code, or the right video, and bounded memory."""

import io
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import av
import httpx2
import numpy as np
import pytest
from PIL import Image

from core.config.settings import Settings
from core.errors import InvalidRequest
from core.storage import Storage, input_key
from harness.servers import RedisServer, wait_until
from harness.stack import ROOT, Stack
from sandbox.pictures import is_lossy, read_picture
from tests.abuse import build
from tests.abuse.build import ACCEPTED, EITHER, SECRET, Case, corpus
from tests.abuse.meter import Meter

ALLOWED_BYTES = 300_000_000
STATUSES = {kind.code: kind.status for kind in InvalidRequest.__subclasses__()}

# The whole picture, small; the camera begins with all of it.
CLIP = {"engine": "preview", "width": 64, "height": 64, "num_frames": 2, "fit": "stretch", "motion": "zoom_in"}

PNG_CHUNKS = {b"IHDR", b"IDAT", b"IEND"}
JPEG_SEGMENTS = {0xE0, 0xDB, 0xC0, 0xC4, 0xDA, 0xD9}  # JFIF's header, tables, the frame, its scan, the end


class Sent(NamedTuple):
    case: Case
    status: int
    body: dict[str, Any]


class Run(NamedTuple):
    """What became of the whole corpus."""

    sent: list[Sent]
    meter: Meter
    videos: dict[str, bytes]
    storage: Storage

    @property
    def accepted(self) -> list[Sent]:
        return [sent for sent in self.sent if sent.status == 202]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("abuse")
    with RedisServer() as redis, Stack(folder, redis) as stack:
        stack.start("app", "app")
        wait_until(lambda: answers(stack), 60, "an API server")
        with Meter(stack.processes["app"].pid).running() as meter:
            sent = [send(stack, case) for case in corpus()]
        accepted = [one.body["task_id"] for one in sent if one.status == 202]
        stack.start("worker", "worker", "--queue", "cpu")
        stack.start("keeper", "keeper")  # wakes workers for what was accepted before there was a worker
        for task_id in accepted:
            assert stack.wait_for(task_id)["status"] == "finished"
        videos = {task_id: stack.video(task_id) for task_id in accepted}
        settings = Settings(_env_file=None, data_dir=folder / "data")
        yield Run(sent, meter, videos, Storage(settings.resolved_storage_url))


def answers(stack: Stack) -> bool:
    try:
        return stack.client.get("/health/live").status_code == 200
    except httpx2.TransportError:
        return False


def send(stack: Stack, case: Case) -> Sent:
    response = stack.client.post("/generate", files={"file": (case.name, case.data)}, data=CLIP)
    return Sent(case, response.status_code, response.json())


def test_every_file_is_accepted_or_refused_with_a_code(run: Run) -> None:
    wrong = {}
    for case, status, body in run.sent:
        code = ACCEPTED if status == 202 else body["error"]["code"]
        right_status = 202 if code == ACCEPTED else STATUSES.get(code)
        if status != right_status or case.answer not in (EITHER, code):
            wrong[case.name] = (status, code, case.answer)
    assert not wrong
    assert len(run.sent) > 250
    assert len(run.accepted) > 80


def test_no_file_takes_the_service_300_mb_above_idle(run: Run) -> None:
    assert run.meter.peak - run.meter.idle < ALLOWED_BYTES
    assert run.meter.peak - run.meter.idle > 150_000_000, "the largest that is allowed was seen"


def test_a_meter_sees_what_a_child_of_a_child_takes() -> None:
    """So that the bound above can fail."""
    take = "import sys; taken = bytearray(b'x') * 350_000_000; sys.stdin.read()"
    start = f"import subprocess, sys; sys.stdin.readline(); subprocess.run([sys.executable, '-c', {take!r}])"
    with subprocess.Popen([sys.executable, "-c", start], stdin=subprocess.PIPE) as process:
        assert process.stdin
        with Meter(process.pid).running() as meter:
            process.stdin.write(b"\n")
            process.stdin.flush()
            wait_until(lambda: meter.peak - meter.idle > ALLOWED_BYTES, what="more memory than is allowed")
        process.stdin.close()


def test_nothing_but_pixels_is_stored(run: Run) -> None:
    for case, _, body in run.accepted:
        stored = run.storage.read(input_key(body["task_id"], "picture"))
        assert SECRET not in stored, case.name
        if stored.startswith(b"\x89PNG"):
            assert not is_lossy(case.data), case.name
            assert png_chunks(stored) == PNG_CHUNKS, case.name
        else:
            assert is_lossy(case.data), case.name
            assert jpeg_segments(stored) == JPEG_SEGMENTS, case.name
            assert stored.index(b"\xff\xd9") == len(stored) - 2, case.name


def png_chunks(data: bytes) -> set[bytes]:
    found, position = set(), 8
    while position < len(data):
        found.add(data[position + 4 : position + 8])
        position += 12 + int.from_bytes(data[position : position + 4], "big")
    return found


def jpeg_segments(data: bytes) -> set[int]:
    found, position = {0xDA, 0xD9}, 2
    while data[position + 1] != 0xDA:
        found.add(data[position + 1])
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return found


def test_what_is_accepted_becomes_the_right_video(run: Run) -> None:
    for case, _, body in run.accepted:
        stored = read_picture(run.storage.read(input_key(body["task_id"], "picture")), 50)
        with warnings.catch_warnings(action="ignore"):  # Pillow's, of broken metadata
            sent = read_picture(case.data, 50)
        assert np.abs(small(stored) - small(sent)).mean() < 4, case.name
        with av.open(io.BytesIO(run.videos[body["task_id"]])) as video:
            frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
        assert len(frames) == 2, case.name
        assert np.abs(frames[0] - small(stored)).mean() < 12, case.name


def small(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.resize((64, 64), Image.Resampling.BOX, reducing_gap=2.0), float)


def test_the_corpus_is_the_same_at_each_run() -> None:
    groups = (build.polyglots, build.headers, build.metadata, build.profiles, build.not_pictures)
    once, again = ([case for group in groups for case in group()] for _ in range(2))
    assert once == again


def test_nothing_hands_an_upload_to_ffmpeg() -> None:
    """An `evil.jpg` that holds an ffconcat script makes ffmpeg read other files. PyAV only ever encodes here, and reads
    nothing but what it encoded, and that as MP4 whatever it looks like."""
    sources = {
        path: path.read_text()
        for part in ("app", "core", "worker", "keeper", "sandbox")
        for path in (ROOT / part).rglob("*.py")
    }
    assert sources
    for path, source in sources.items():
        assert not re.search(r"""["']ff(mpeg|probe)["']|VideoCapture|imageio""", source), path
        for opened in re.findall(r"av\.open\(.*", source):
            reads_our_own = path == ROOT / "worker/media/video.py" and 'format="mp4"' in opened
            assert '"w"' in opened or reads_our_own, (path, opened)
