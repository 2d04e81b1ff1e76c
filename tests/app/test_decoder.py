"""Uploads are decoded in children with hard limits: what comes back, and what becomes of children that go wrong."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from core.errors import ImageTooLarge, ImageUnreadable, ImageUnsupported, InvalidRequest, QueueFull
from harness.pictures import CAT, png
from harness.servers import wait_until
from sandbox import decoder as decoder_module
from sandbox.decoder import AT_ONCE, ROOT, WAITING, Decoder, end, give, handle_of, read_answer
from sandbox.pictures import read_picture
from sandbox.protocol import JOB, PID, REPLY, Kind
from tests.app.conftest import FUZZ_EXAMPLES
from tests.app.decoding import decoded
from tests.sandbox.files import WIDE, exif, gradient, photo, saved
from tests.sandbox.test_pictures import CASES, HEIC


@pytest.fixture
def decoder() -> Iterator[Decoder]:
    decoder = Decoder()
    yield decoder
    decoder.close()


@pytest.fixture
def at_work(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The process ids of the children that were given an upload, in that order."""
    pids: list[int] = []
    find = handle_of

    def noted(pid: int) -> int | None:
        pids.append(pid)
        return find(pid)

    monkeypatch.setattr("sandbox.decoder.handle_of", noted)
    return pids


def sandbox_of(decoder: Decoder) -> psutil.Process:
    decoded(decoder, CAT, 50)
    assert decoder._sandbox
    return psutil.Process(decoder._sandbox.pid)


# What comes back


@pytest.mark.parametrize(
    ("options", "stored"),
    [
        ({"format": "JPEG"}, "JPEG"),
        ({"format": "MPO"}, "JPEG"),
        ({"format": "WEBP"}, "JPEG"),
        ({"format": "WEBP", "lossless": True}, "PNG"),
        ({"format": "PNG"}, "PNG"),
        ({"format": "AVIF"}, "JPEG"),
    ],
)
@pytest.mark.parametrize("orientation", [1, 6])
def test_the_same_picture_comes_back_with_nothing_else_in_it(
    options: dict[str, Any], stored: str, orientation: int, shared_decoder: Decoder
) -> None:
    """Turned and with its colours: a child can load no more code, so all of Pillow's must be there."""
    upload = saved(photo(), exif=exif(orientation), icc_profile=WIDE, **options)
    with Image.open(io.BytesIO(decoded(shared_decoder, upload, 50))) as picture:
        assert (picture.format, picture.mode) == (stored, "RGB")
        assert not set(picture.info) - {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
        assert not picture.getexif()
        assert np.abs(np.asarray(picture, float) - np.asarray(read_picture(upload, 50))).mean() < 2


def test_a_refusal_comes_through_as_it_was_made(shared_decoder: Decoder) -> None:
    with pytest.raises(ImageTooLarge, match=r"at most 1 megapixels; got 2\.0 \(2000×1000\)") as caught:
        decoded(shared_decoder, png(2000, 1000), 1)
    assert caught.value.param == "file"


def large(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Noise of 16 px, which makes a file of some megabytes."""
    return Image.effect_noise((width // 16, height // 16), 80).resize((width, height)).convert(mode)


TURNED, ALL_COLOURS = {"exif": exif(6)}, {"progressive": True, "subsampling": 0}


@pytest.mark.parametrize(
    ("size", "options", "decoded"),
    [
        pytest.param((8064, 6048), TURNED, (2160, 2880), id="a phone's 48 megapixels"),
        pytest.param((8192, 6144), {}, (2880, 2160), id="a phone's 50 megapixels"),
        pytest.param((11000, 3800), {}, (6252, 2160), id="a panorama"),
        pytest.param((16384, 3050), TURNED, (1525, 8192), id="a panorama that is turned"),
        pytest.param((6720, 4300), {"icc_profile": WIDE}, (3375, 2160), id="hardly to be reduced, with a profile"),
        pytest.param((6000, 4000), ALL_COLOURS, (3000, 2000), id="progressive with all colours"),
    ],
)
def test_a_large_jpeg_fits_the_limits(
    shared_decoder: Decoder, size: tuple[int, int], options: dict[str, Any], decoded: tuple[int, int]
) -> None:
    assert sized(shared_decoder, saved(large(*size), "JPEG", quality=90, **options)) == decoded


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
@pytest.mark.parametrize(("size", "decoded"), [((6000, 4000), (3240, 2160)), ((8160, 6144), (2868, 2160))])
def test_a_large_png_fits_the_limits(
    shared_decoder: Decoder, mode: str, size: tuple[int, int], decoded: tuple[int, int]
) -> None:
    assert sized(shared_decoder, saved(gradient(*size, mode), "PNG", compress_level=1)) == decoded


def test_a_large_heic_avif_and_webp_fit_the_limits(shared_decoder: Decoder) -> None:
    heic = (HEIC.parent / "large" / "of_24_megapixels.heic").read_bytes()
    assert sized(shared_decoder, heic) == (2880, 2160)
    assert sized(shared_decoder, saved(gradient(5712, 4284), "AVIF", speed=10)) == (2880, 2160)
    assert sized(shared_decoder, saved(gradient(4032, 3024), "WEBP", method=0)) == (2880, 2160)


def sized(decoder: Decoder, upload: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(decoded(decoder, upload, 50))) as picture:
        return picture.size


# Limits


@pytest.mark.parametrize("kind", ["WEBP", "JPEG"])
def test_memory_runs_out_for_the_child_alone(shared_decoder: Decoder, kind: str) -> None:
    """libwebp has two canvases, libjpeg all coefficients of a progressive picture."""
    options: dict[str, Any] = {"method": 0} if kind == "WEBP" else {"progressive": True, "subsampling": 0}
    with pytest.raises(ImageTooLarge, match="more memory than is allowed"):
        decoded(shared_decoder, saved(Image.new("RGB", (8000, 6000)), kind, **options), 50)
    assert decoded(shared_decoder, CAT, 50)


def in_a_child(code: str) -> subprocess.CompletedProcess[str]:
    """Runs `code` under the limits of a child, in the sandbox's place."""
    program = f"""
import os, socket, signal, sys
from sandbox import __main__ as sandbox
sandbox.pictures.load_all_code()
sandbox.limit_this_process()
sandbox.start_no_process(False)
{textwrap.dedent(code)}
"""
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)


AS_NOBODY = """
import os, sys
from sandbox import __main__ as sandbox, pictures
pictures.load_all_code()
upload = open(sys.argv[1], 'rb').read()
if os.geteuid() == 0:  # whom no limit on processes binds
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
sandbox.limit_this_process()
sandbox.start_no_process(sandbox.is_heic(upload))
print(len(pictures.read(upload, 50)), flush=True)
try:
    os.fork()
except OSError:
    print('alone')
"""


@pytest.mark.parametrize(
    "path", ["heic/plain.heic", "heic/ten_bits.heic", "large/of_24_megapixels.heic", "cases/01_adler.png"]
)
def test_a_child_that_may_not_do_more_than_the_services_user_reads_it_and_starts_no_process(path: str) -> None:
    """libde265 starts a thread, which a limit on processes would forbid too, for all but root."""
    upload = HEIC.parent / path
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, str(upload)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    size, _, rest = done.stdout.partition("\n")
    assert int(size) > 100, done.stderr
    assert rest.strip() == "alone"


@pytest.mark.parametrize("attempt", ["open('/etc/hostname')", "socket.socket()", "os.pipe()", "os.listdir('/')"])
def test_a_child_can_open_nothing(attempt: str) -> None:
    done = in_a_child(f"{attempt}\nprint('done')")
    assert "Too many open files" in done.stderr
    assert "done" not in done.stdout


def test_a_child_can_write_no_file(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:
        program = "from sandbox import __main__ as sandbox\nimport os\nsandbox.limit_this_process()\nos.write(1, b'x')"
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, stdout=file, stderr=subprocess.PIPE, check=False
        )
    assert b"File too large" in done.stderr
    assert (tmp_path / "file").read_bytes() == b""


def test_a_child_can_take_no_more_memory_than_is_allowed() -> None:
    assert "MemoryError" in in_a_child("taken = bytearray(250_000_000)").stderr
    assert in_a_child("taken = bytearray(200_000_000)").returncode == 0


def test_a_child_that_computes_for_ever_is_ended() -> None:
    done = in_a_child("import resource\nresource.setrlimit(resource.RLIMIT_CPU, (1, 1))\nwhile True: pass")
    assert done.returncode in (-signal.SIGXCPU, -signal.SIGKILL)


def test_a_child_whose_upload_does_not_come_is_ended() -> None:
    ours, theirs = socket.socketpair()
    wait = "sandbox.WALL_SECONDS = 1\nsandbox.work_in_child(socket.socket(fileno=0))"
    code = f"import socket\nfrom sandbox import __main__ as sandbox\n{wait}"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=theirs.fileno(), cwd=ROOT)
    with ours, theirs:
        ours.sendall(JOB.pack(Kind.PICTURE, 50, 1000))
        assert child.wait(30) == -signal.SIGALRM


# When something goes wrong


def test_a_child_that_breaks_off_costs_its_picture_and_nothing_else(decoder: Decoder, at_work: list[int]) -> None:
    sandbox = sandbox_of(decoder)
    with ThreadPoolExecutor() as pool:
        lost = pool.submit(decoded, decoder, saved(gradient(8000, 6000), "JPEG"), 50)
        wait_until(lambda: len(at_work) == 2, what="a child with the upload")
        psutil.Process(at_work[-1]).kill()
        with pytest.raises(ImageUnreadable, match="takes too long or breaks off"):
            lost.result()
    assert decoded(decoder, CAT, 50)
    assert sandbox_of(decoder) == sandbox


def test_a_sandbox_that_died_is_started_again(decoder: Decoder) -> None:
    first = sandbox_of(decoder)
    end_sandbox(decoder)
    assert sandbox_of(decoder).pid != first.pid


def end_sandbox(decoder: Decoder) -> None:
    assert decoder._sandbox
    decoder._sandbox.kill()
    decoder._sandbox.wait()


def waiting_child(sandbox: psutil.Process, at_work: list[int]) -> psutil.Process:
    found: list[psutil.Process] = []

    def there() -> bool:
        found[:] = [child for child in sandbox.children() if child.pid not in at_work]
        return bool(found)

    wait_until(there, what="a child that waits for the next upload")
    (waiting,) = found
    return waiting


def test_the_child_that_waited_ends_with_a_sandbox_that_died(decoder: Decoder, at_work: list[int]) -> None:
    waiting = waiting_child(sandbox_of(decoder), at_work)
    end_sandbox(decoder)
    sandbox_of(decoder)
    psutil.wait_procs([waiting], 10)
    assert not waiting.is_running() or waiting.status() == psutil.STATUS_ZOMBIE


def test_a_child_is_there_before_its_upload_is(decoder: Decoder, at_work: list[int]) -> None:
    sandbox = sandbox_of(decoder)
    for _ in range(3):
        waiting = waiting_child(sandbox, at_work)
        assert decoded(decoder, CAT, 50)
        assert at_work[-1] == waiting.pid
        psutil.wait_procs([waiting], 10)
        assert not waiting.is_running()


@pytest.mark.parametrize("waits", [False, True])
def test_a_sandbox_that_hangs_is_started_again(decoder: Decoder, monkeypatch: pytest.MonkeyPatch, waits: bool) -> None:
    """Also for an upload that had to wait for its turn, which is tried once."""
    first = sandbox_of(decoder)
    os.killpg(first.pid, signal.SIGSTOP)  # with the child that waits
    monkeypatch.setattr(decoder_module, "START_SECONDS", 5.0)
    for _ in range(AT_ONCE * waits):
        assert decoder._turns.take_now("")
    try:
        with ThreadPoolExecutor() as pool:
            made = pool.submit(decoded, decoder, CAT, 50)
            if waits:
                wait_until(lambda: decoder.limit.free < decoder.limit.slots, what="it to come")
                time.sleep(0.2)  # it has seen that there is no turn
                for _ in range(AT_ONCE):
                    decoder._turns.give_back("")
            assert made.result(60)
        assert decoder._sandbox
        assert decoder._sandbox.pid != first.pid
    finally:
        with suppress(ProcessLookupError):
            os.killpg(first.pid, signal.SIGKILL)


def test_who_finds_the_sandbox_dead_leaves_the_one_that_was_started_since(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = decoder_module.give, Counter[bytes]()
    both_have_a_child, one_tries_again, two_tries_again = threading.Barrier(2), threading.Event(), threading.Event()

    def give_in_turn(job: socket.socket, max_megapixels: int, upload: io.BytesIO) -> int | None:
        name = upload.getvalue()
        calls[name] += 1
        if calls[name] == 1:
            both_have_a_child.wait(10)
            if name == b"two":
                one_tries_again.wait(10)
            raise OSError("the sandbox is dead")
        if name == b"one":
            one_tries_again.set()
            two_tries_again.wait(10)
        two_tries_again.set()
        return real(job, max_megapixels, upload)

    monkeypatch.setattr(decoder_module, "give", give_in_turn)
    with ThreadPoolExecutor() as pool:
        for begun in [pool.submit(decoder._start_job, 50, io.BytesIO(upload)) for upload in (b"one", b"two")]:
            end(*begun.result(60))
    assert calls == {b"one": 2, b"two": 2}, "nobody needed a third"


SERVER = """
import sys, threading
from sandbox.decoder import Decoder
from tests.app.decoding import decoded
decoder = Decoder()
decoded(decoder, open('samples/cat.jpg', 'rb').read())
large = sys.stdin.buffer.read()
for _ in range(2):
    threading.Thread(target=decoded, args=(decoder, large), daemon=True).start()
threading.Event().wait()
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_is_left_when_the_front_ends(how: signal.Signals, decoder: Decoder) -> None:
    with subprocess.Popen([sys.executable, "-c", SERVER], cwd=ROOT, stdin=subprocess.PIPE) as server:
        assert server.stdin
        server.stdin.write(saved(gradient(8000, 6000), "JPEG"))
        server.stdin.close()
        family = psutil.Process(server.pid)
        wait_until(lambda: len(family.children(recursive=True)) == 3, what="a sandbox with two children")
        left = family.children(recursive=True)
        server.send_signal(how)
    _, alive = psutil.wait_procs(left, 10)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def answered(*said: bytes) -> InvalidRequest:
    """What the API server makes of a child that was taken over by its upload and says this."""
    ours, theirs = socket.socketpair()
    with ours, theirs, ThreadPoolExecutor() as pool:
        refused = pool.submit(read_answer, ours)
        for part in said:
            theirs.sendall(part)
        theirs.close()
        error = refused.exception()
    assert isinstance(error, InvalidRequest)
    return error


def as_json(**said: object) -> tuple[bytes, bytes]:
    body = json.dumps(said).encode()
    return REPLY.pack(False, len(body)), body


@pytest.mark.parametrize(
    "said",
    [
        [],
        [b"nonsense"],
        [REPLY.pack(True, 2**60)],
        [REPLY.pack(True, 9), b"too short"[:-1]],
        [REPLY.pack(True, 16), b"\x7fELF and so forth"[:16]],
        [REPLY.pack(False, 4), b"\xff\xfe{}"],
        [REPLY.pack(False, 2), b"{}"],
        [REPLY.pack(False, 2), b"[]"],
        [REPLY.pack(False, 9999), b"[" * 9999],
        [REPLY.pack(False, 2**20), b"[" * 100],
        as_json(code="internal_error", message="m"),
        as_json(code=["image_too_large"], message="m"),
    ],
)
def test_of_a_child_that_was_taken_over_nothing_is_believed(said: list[bytes]) -> None:
    assert isinstance(answered(*said), ImageUnreadable)


def test_the_answer_of_a_child_that_has_gone_already_is_heard() -> None:
    """It may know all before everything is sent."""
    ours, theirs = socket.socketpair()
    said = PID.pack(os.getpid()), *as_json(code="image_unsupported", message="no picture")

    def child() -> None:
        with theirs:
            theirs.recv(JOB.size, socket.MSG_WAITALL)
            theirs.sendall(b"".join(said))

    with ours, ThreadPoolExecutor() as pool:
        pool.submit(child)
        handle = give(ours, 50, io.BytesIO(bytes(10_000_000)))
        with pytest.raises(ImageUnsupported):
            read_answer(ours)
    assert handle is not None
    os.close(handle)


def test_a_child_that_says_nothing_is_given_up_when_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_module, "ANSWER_SECONDS", 0.5)
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(ImageUnreadable, match="takes too long"):
        read_answer(ours)


def test_a_child_that_was_taken_over_does_not_stay() -> None:
    ours, theirs = socket.socketpair()
    child = subprocess.Popen(["sleep", "60"])
    with theirs:
        end(ours, handle_of(child.pid))
        assert child.wait(10) == -signal.SIGKILL
        assert theirs.recv(1) == b""


def test_who_leaves_without_the_picture_ends_the_child_and_frees_its_turn(decoder: Decoder, at_work: list[int]) -> None:
    large = saved(gradient(8000, 6000), "JPEG")
    for _ in range(2 * AT_ONCE):
        with decoder.decoding(io.BytesIO(large), 50):
            child = psutil.Process(at_work[-1])
            child.suspend()  # it would end by itself once it has decoded
        psutil.wait_procs([child], 10)
        assert not child.is_running()
    assert decoded(decoder, CAT, 50)


def test_a_key_has_one_turn_of_two_and_its_next_picture_waits(decoder: Decoder, at_work: list[int]) -> None:
    with (
        decoder.decoding(io.BytesIO(CAT), 50, "ann"),
        decoder.decoding(io.BytesIO(CAT), 50, "ann"),
        decoder.decoding(io.BytesIO(CAT), 50, "bob") as bobs,
    ):
        assert len(at_work) == 2
        assert bobs()


def test_a_place_is_held_for_as_long_as_the_picture_is_in_memory(decoder: Decoder) -> None:
    with decoder.decoding(io.BytesIO(CAT), 50) as picture:
        assert picture()
        assert decoder.limit.free == decoder.limit.slots - 1
    assert decoder.limit.free == decoder.limit.slots


def test_a_sandbox_that_cannot_be_started_is_tried_twice_and_frees_the_turn(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[None] = []

    def refuses(*_: object, **__: object) -> None:
        tries.append(None)
        raise OSError("Resource temporarily unavailable")

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", refuses)
        for _ in range(AT_ONCE + 1):
            with pytest.raises(QueueFull, match="no process for decoding"):
                decoded(decoder, CAT, 50)
    assert len(tries) == 2 * (AT_ONCE + 1)
    assert decoded(decoder, CAT, 50)


def test_a_turn_is_over_with_its_answer(decoder: Decoder) -> None:
    with (
        decoder.decoding(io.BytesIO(CAT), 50) as first,
        decoder.decoding(io.BytesIO(CAT), 50) as second,
        decoder.decoding(io.BytesIO(CAT), 50) as third,
    ):
        assert first()
        assert third()
        assert second()


def test_uploads_wait_in_a_room_of_bounded_size_and_the_front_still_answers(
    client: TestClient, shared_decoder: Decoder
) -> None:
    sandbox = sandbox_of(shared_decoder)
    os.killpg(sandbox.pid, signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(AT_ONCE + WAITING) as pool:
            sent = [pool.submit(client.post, "/generate", files={"file": CAT}) for _ in range(AT_ONCE + WAITING)]
            wait_until(lambda: shared_decoder.limit.free == 0, what="a full room")
            refused = client.post("/generate", files={"file": CAT})
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
            assert int(refused.headers["retry-after"]) >= 1
            assert client.get("/tasks").status_code == 200
            os.killpg(sandbox.pid, signal.SIGCONT)
            assert {future.result().status_code for future in sent} == {202}
    finally:
        os.killpg(sandbox.pid, signal.SIGCONT)


# What it is made of


def test_the_sandbox_knows_no_secret_and_loads_no_web_framework(decoder: Decoder) -> None:
    assert sandbox_of(decoder).environ() == {}
    code = "import sys, sandbox.__main__; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).split()
    assert not {"fastapi", "starlette", "uvicorn", "sqlalchemy", "redis", "pydantic"} & set(loaded)


KINDS = [
    saved(photo(), "JPEG", exif=exif(6), icc_profile=WIDE),
    saved(photo(), "JPEG", progressive=True),
    saved(photo().convert("CMYK"), "JPEG"),
    saved(photo(), "MPO", save_all=True, append_images=[photo()]),
    saved(photo(), "PNG", exif=exif(3), icc_profile=WIDE),
    saved(photo().quantize(16), "PNG", transparency=0),
    saved(photo(), "PNG", save_all=True, append_images=[photo()]),
    saved(photo(), "WEBP", exif=exif(8), icc_profile=WIDE),
    saved(photo().convert("RGBA"), "WEBP", lossless=True),
    saved(photo(), "AVIF", icc_profile=WIDE),
    (HEIC / "plain.heic").read_bytes(),
    saved(photo().quantize(16), "GIF"),
    saved(photo(), "BMP"),
    (CASES / "04_cicp_pq.png").read_bytes(),
    (CASES / "05_linear16.png").read_bytes(),
    (CASES / "31_la16.png").read_bytes(),
]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A real file with bytes changed, taken out or put in."""
    data = bytearray(draw(st.sampled_from(KINDS)))
    for _ in range(draw(st.integers(1, 8))):
        start = draw(st.integers(0, len(data)))
        data[start : start + draw(st.integers(0, 8))] = draw(st.binary(max_size=8))
    return bytes(data[: draw(st.integers(0, len(data)) | st.just(len(data)))])


@pytest.mark.fuzz
@settings(max_examples=FUZZ_EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(upload=damaged() | st.binary(max_size=300).map(b"\x89PNG\r\n\x1a\n".__add__) | st.binary(max_size=300))
@example(upload=b"")
def test_whatever_is_uploaded_becomes_a_plain_picture_or_a_refusal(shared_decoder: Decoder, upload: bytes) -> None:
    """Any other error passes on and fails the test."""
    with suppress(InvalidRequest):
        assert read_picture(bytes(decoded(shared_decoder, upload, 1)), 1).mode == "RGB"


DECODES = """
import sys
sys.modules |= dict.fromkeys(["fastapi", "starlette", "uvicorn"])
import worker.main
from sandbox.decoder import Decoder
from tests.app.decoding import decoded

decoder = Decoder()
picture = decoded(decoder, open(sys.argv[1], "rb").read(), 50)
decoder.close()
print(picture[:3].hex())
"""


def test_a_worker_too_can_start_the_sandbox() -> None:
    """None needs it yet: what it reads, the API server has had encoded anew."""
    cat = ROOT / "samples" / "cat.jpg"
    told = subprocess.run(
        [sys.executable, "-c", DECODES, str(cat)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (told.returncode, told.stdout.strip()) == (0, "ffd8ff"), told.stderr
