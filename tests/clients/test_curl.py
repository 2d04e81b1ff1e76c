"""What curl can be told, against a real service: every way of sending a picture, and of getting the video."""

import base64
import json
import subprocess
from pathlib import Path

import pytest

from harness.pictures import SAMPLES
from tests.clients.conftest import Service, frames_of

CAT, COFFEE = SAMPLES / "cat.jpg", SAMPLES / "coffee.jpg"
SMALL = ["-F", "width=64", "-F", "height=64", "-F", "num_frames=2"]


def curl(service: Service, *options: str, folder: Path | None = None, given: bytes = b"") -> str:
    """Returns what it printed."""
    command = ["curl", "-sS", "-m", "60", "-H", f"Authorization: Bearer {service.ann}", *options]
    return subprocess.run(command, cwd=folder, input=given, capture_output=True, check=True).stdout.decode()


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--http1.0"],
        ["--http2"],
        ["-H", "Transfer-Encoding: chunked"],
        ["-H", "Expect: 100-continue"],
        ["-H", "Expect:"],
        ["--compressed", "--tr-encoding"],
    ],
    ids=" ".join,
)
def test_a_form_is_sent_in_each_way(service: Service, options: list[str]) -> None:
    said = curl(service, *options, "-F", f"file=@{COFFEE}", *SMALL, f"{service.url}/generate")
    assert '"status_url"' in said


def test_a_picture_may_come_from_anywhere(service: Service, tmp_path: Path) -> None:
    text = base64.encodebytes(CAT.read_bytes())
    (tmp_path / "lines.txt").write_bytes(text)
    one_line = base64.b64encode(CAT.read_bytes()).decode()
    body = json.dumps({"image": one_line, "width": 64, "height": 64, "num_frames": 2}).encode()
    for options, given in (
        (["-F", "file=@-", *SMALL], CAT.read_bytes()),
        (["-F", "file=<lines.txt", *SMALL], b""),
        (["-F", f'file=@{CAT};type=text/plain;filename="a b"', *SMALL], b""),
        (["--form-string", f"file=data:image/jpeg;base64,{one_line}", *SMALL], b""),
        (["--data-urlencode", "image@lines.txt", "-d", "width=64", "-d", "height=64", "-d", "num_frames=2"], b""),
        (["--json", "@-"], body),
    ):
        assert '"status_url"' in curl(service, *options, f"{service.url}/generate", folder=tmp_path, given=given)
    assert '"status_url"' in curl(service, "-L", "-F", f"file=@{COFFEE}", *SMALL, f"{service.url}/generate/")


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["-T", str(COFFEE)], "method_not_allowed"),
        (["-X", "POST", "-T", str(COFFEE)], "content_type_unsupported"),
        (["--data-binary", f"@{COFFEE}"], "content_type_unsupported"),
        (["-F", f"file={COFFEE}"], "image_unsupported"),
        (["-d", f"file=@{COFFEE}"], "image_unsupported"),
    ],
)
def test_a_picture_that_is_sent_in_a_wrong_way_is_told_so(service: Service, options: list[str], code: str) -> None:
    assert json.loads(curl(service, *options, f"{service.url}/generate"))["error"]["code"] == code


def test_a_data_url_that_curl_cut_is_told_how_to_send_it(service: Service) -> None:
    said = curl(service, "-F", "image_url=data:image/jpeg;base64,/9j/4AAQ", f"{service.url}/generate")
    assert "give it by --form-string" in json.loads(said)["error"]["message"]


def test_a_video_is_got_in_each_way(service: Service, tmp_path: Path) -> None:
    made = json.loads(curl(service, "-F", f"file=@{CAT}", "-F", "num_frames=20", f"{service.url}/generate"))
    curl(service, "-N", f"{made['status_url']}/events")  # which ends with the task
    url = f"{service.url}/results/{made['task_id']}"

    def get(*options: str) -> str:
        return curl(service, *options, "-w", "%{http_code}", url, folder=tmp_path)

    assert get("-R", "-o", "whole.mp4", "--etag-save", "etag") == "200"
    whole = (tmp_path / "whole.mp4").read_bytes()
    assert frames_of(whole)[0] == 20
    (tmp_path / "part.mp4").write_bytes(whole[:1000])
    assert get("-C", "-", "-o", "part.mp4") == "206"
    assert (tmp_path / "part.mp4").read_bytes() == whole
    assert get("-C", "-", "-o", "part.mp4") == "416", "it is there already"
    assert get("-z", "whole.mp4", "-o", "part.mp4") == "304", "-R gave the file its time"
    assert get("--etag-compare", "etag", "-o", "part.mp4") == "304"
    assert get("-r", "-10", "-o", "end") == "206"
    assert (tmp_path / "end").read_bytes() == whole[-10:]
    assert get("-OJ", "--compressed") == "200"
    assert (tmp_path / f"kinora-{made['task_id']}.mp4").read_bytes() == whole
    assert f"content-length: {len(whole)}" in curl(service, "-I", url)
