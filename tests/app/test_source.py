"""A picture as a caller gives it: a file, base64, a data: URL or where it is, in a form or in JSON."""

import base64
import hashlib
import json
import random
import textwrap
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient

from app.intake.accept import accept
from app.intake.source import Extension, Remix
from app.intake.submission import Submission
from app.middleware.auth import ANYONE
from app.services import Services
from core.errors import InvalidParameter, NotReady, TaskGone, TaskNotFound
from core.requests.clip import Clip, ClipRequest
from core.storage import artifact_key, input_key
from core.task import Claim
from harness.pictures import CAT, png
from tests.app.conftest import VIDEO, upload
from tests.conftest import artifacts_at

TEXT = base64.b64encode(CAT).decode()
DATA_URL = f"data:image/jpeg;base64,{TEXT}"
GIVEN = {
    "base64": TEXT,
    "base64 for URLs": base64.urlsafe_b64encode(CAT).decode(),
    "base64 without padding": TEXT.rstrip("="),
    "base64 in lines": "\n".join(textwrap.wrap(TEXT, 76)),
    "base64 in lines that are parted by spaces": " ".join(textwrap.wrap(TEXT, 76)),
    "data: URL": DATA_URL,
    "data: URL without padding": DATA_URL.rstrip("="),
    "data: URL in capitals": f"DATA:IMAGE/JPEG;BASE64,{TEXT}",
    "data: URL with spaces": f" data:image/jpeg; base64 , {TEXT}\n",
    "data: URL with a name": f"data:image/jpeg;name=a%20cat.jpg;charset=utf-8;base64,{TEXT}",
    "data: URL, escaped": f"data:image/jpeg;base64,{quote(TEXT, safe='')}",
    "data: URL, escaped in small letters": f"data:image/jpeg;base64,{quote(TEXT, safe='').replace('%2F', '%2f')}",
    "data: URL in quotes": f'"{DATA_URL}"',
    "base64 in single quotes": f" '{TEXT}' ",
    "Python's bytes": str(base64.b64encode(CAT)),
    "Python's bytes in a data: URL": f"data:image/jpeg;base64,{base64.b64encode(CAT)!s}",
}
WRONG = {
    "a data: URL without base64": ("image", "data:image/png,%89PNG", 422, "invalid_parameter"),
    "unfinished base64": ("image_url", DATA_URL[:-3], 422, "invalid_parameter"),
    "no base64": ("image", "a cat, please", 415, "image_unsupported"),
    "base64 of no picture": ("image", base64.b64encode(b"a cat, please").decode(), 415, "image_unsupported"),
    "nothing": ("image", "", 422, "file_missing"),
    "base64 of nothing": ("image_url", "data:image/png;base64,", 422, "file_missing"),
    "another kind of URL": ("image_url", "file:///etc/passwd", 415, "image_unsupported"),
}


def sha256_of(services: Services, task_id: str) -> str:
    (source,) = services.ledger.inputs(task_id).values()
    return source.sha256


@pytest.mark.parametrize("field", ["file", "image", "image_url"])
@pytest.mark.parametrize("kind", GIVEN)
@pytest.mark.parametrize("way", ["json", "multipart", "file"])
def test_a_picture_is_taken_in_any_dress(
    client: TestClient, services: Services, field: str, kind: str, way: str
) -> None:
    if way == "json":
        answer = client.post("/generate", json={field: GIVEN[kind]})
    elif way == "multipart":
        answer = client.post("/generate", files={field: (None, GIVEN[kind])})
    else:
        answer = client.post("/generate", files={field: ("cat", GIVEN[kind].encode(), "text/plain")})
    assert answer.status_code == 202, answer.text
    assert sha256_of(services, answer.json()["task_id"]) == hashlib.sha256(CAT).hexdigest()


def in_generate(text: str) -> tuple[str, dict[str, Any], str]:
    return "/generate", {"image": text}, "image"


def in_openai(text: str) -> tuple[str, dict[str, Any], str]:
    return "/v1/videos", {"input_reference": {"image_url": text}}, "input_reference[image_url]"


def in_replicate(text: str) -> tuple[str, dict[str, Any], str]:
    return "/v1/predictions", {"version": "preview", "input": {"input_image": text}}, "input_image"


def in_stability(text: str) -> tuple[str, dict[str, Any], str]:
    return "/v2beta/image-to-video", {"image": text}, "image"


DIALECTS = [in_generate, in_openai, in_replicate, in_stability]


@pytest.mark.parametrize("case", sorted(Path(__file__).parent.glob("picture_texts/*.json")), ids=lambda case: case.stem)
@pytest.mark.parametrize("dialect", DIALECTS[:3])
def test_a_picture_is_taken_as_browsers_node_and_python_write_it(
    client: TestClient, services: Services, dialect: Callable[[str], tuple[str, dict[str, Any], str]], case: Path
) -> None:
    path, body, _ = dialect(json.loads(case.read_text())["image"])
    answer = client.post(path, json=body)
    assert answer.status_code < 300, answer.text
    answered = answer.json()
    good = base64.b64decode(json.loads(case.with_name("good.json").read_text())["image"].partition(",")[2])
    assert sha256_of(services, answered.get("task_id") or answered["id"]) == hashlib.sha256(good).hexdigest()


@pytest.mark.parametrize(
    "text",
    [
        "photo.jpg",
        "photo",
        "/home/ann/photo",
        "C:\\Users\\ann\\photo.jpg",
        "file:///home/ann/photo.jpg",
        "ftp://example.com/photo.jpg",
        "s3://bucket/photo.jpg",
        "blob:https://example.com/0f3b",
        "example.com/photo.jpg",
        "//example.com/photo.jpg",
        "https:/example.com/photo.jpg",
        "[object File]",
        "undefined",
        "ein Foto von einer Kätzchengruppe",
    ],
)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_text_that_is_no_picture_is_told_what_text_may_be(
    client: TestClient, dialect: Callable[[str], tuple[str, dict[str, Any], str]], text: str
) -> None:
    path, body, field = dialect(text)
    answer = client.post(path, json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (415, field)
    message = answer.json()["error"]["message"]
    assert message.startswith(f"{field} must be ")
    assert message.endswith("; text must be base64, a data: URL or an http(s) URL")


@pytest.mark.parametrize("field", ["file", "image", "image_url"])
def test_a_file_that_is_no_picture_is_not_told_what_text_may_be(client: TestClient, field: str) -> None:
    error = client.post("/generate", files={field: ("a.gz", b"\x1f\x8b\x08\0\0\0\0\0")}).json()["error"]
    assert (error["code"], error["param"]) == ("image_unsupported", field)
    assert error["message"].startswith(f"{field} must be ")
    assert "text" not in error["message"]


def test_in_a_form_that_is_no_multipart_a_plus_is_no_space(client: TestClient, services: Services) -> None:
    """As `curl -d` sends it."""
    picture = next(each for each in map(partial(png, 32), range(16, 64)) if b"+" in base64.b64encode(each))
    for text in (base64.b64encode(picture).decode(), f"data:image/png; base64,{base64.b64encode(picture).decode()}"):
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        answer = client.post("/generate", content=f"image={text}", headers=kind)
        assert answer.status_code == 202, answer.text
        assert sha256_of(services, answer.json()["task_id"]) == hashlib.sha256(picture).hexdigest()


def test_a_small_picture_fits_into_an_urlencoded_form(client: TestClient) -> None:
    text = base64.b64encode(png(16, 16)).decode()
    assert client.post("/generate", data={"image": text}).status_code == 202


@pytest.mark.parametrize("way", ["json", "multipart"])
@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_picture_is_refused_in_words(client: TestClient, name: str, way: str) -> None:
    field, text, status, code = WRONG[name]
    given = {"json": {field: text}} if way == "json" else {"files": {field: (None, text), "fps": (None, "7")}}
    answer = client.post("/generate", **given)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text


def test_json_says_all_that_a_form_says(client: TestClient, services: Services) -> None:
    asked = {
        "image": TEXT,
        "engine": "preview",
        "width": 64,
        "height": 64.0,
        "num_frames": "4",
        "prompt": "a cat",
        "seed": None,
        "callback_url": "https://example.com/told",
        "callback_events": ["task.started", "task.finished"],
    }
    answer = client.post("/generate", json=asked)
    assert answer.status_code == 202, answer.text
    task = services.ledger.task(answer.json()["task_id"])
    assert {name: task.params[name] for name in ("width", "height", "num_frames", "prompt")} == {
        "width": 64,
        "height": 64,
        "num_frames": 4,
        "prompt": "a cat",
    }
    assert task.callback_events == ["task.started", "task.finished"]


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ("[]", 400, None),
        ("{", 400, None),
        ('"text"', 400, None),
        ("[" * 60_000, 400, None),
        ('{"image": 7}', 415, "image"),
        ('{"image": "x", "no_such": 1}', 422, "no_such"),
        ('{"image": "x", "width": {"a": 1}}', 422, "width[a]"),
        ('{"image": "x", "width": "wide"}', 422, "width"),
        ('{"image": "x", "fps": true}', 422, "fps"),
        (json.dumps({"image": "x"} | {f"a{number}": 1 for number in range(50)}), 400, None),
        (json.dumps({"image": "x", "A" * 1000: {f"a{number}": 1 for number in range(5000)}}), 400, None),
        ('{"image":"x","a":' + '{"a":' * 900 + "1" + "}" * 901, 400, None),
    ],
)
def test_json_that_asks_for_nothing_sensible_is_refused(
    client: TestClient, body: str, status: int, param: str | None
) -> None:
    answer = client.post("/generate", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param), answer.text


@pytest.mark.parametrize(
    "body",
    [
        "[" + "[]," * 100_000 + "[]]",
        "[" + "1," * 100_000 + "1]",
        '["a",' + "1," * 100_000 + '"a"]',
        '{"a":"' + "x y" * 100_000 + '"}',
        '["' + '","'.join(["A" * 400] * 1000) + '"]',
        '"a' * 9_999 + "a" * 100_000,
    ],
)
def test_json_is_small_but_for_its_pictures(client: TestClient, body: str) -> None:
    """Reading a million lists would take seconds, and gigabytes."""
    answer = client.post("/generate", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "upload_too_large"), answer.text


@pytest.mark.parametrize("kind", ["application/json, text/plain", "application/jsonx", "text/plain", None])
def test_json_that_calls_itself_something_else_is_not_read(client: TestClient, kind: str | None) -> None:
    """The protocol's own library would read some of these as JSON, of any size."""
    body = '{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"a":[' + "[]," * 100_000 + "[]]}}"
    headers = {"Accept": "application/json, text/event-stream"} | ({"Content-Type": kind} if kind else {})
    for path in ("/mcp", "/v1/predictions", "/generate"):
        answer = client.post(path, content=body.encode(), headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (415, "content_type_unsupported"), answer.text


def test_an_upload_in_base64_may_be_as_large_as_any(client: TestClient, services: Services) -> None:
    largest = services.settings.max_upload_mb * 1_000_000
    for size, status in ((largest, 415), (largest + 1, 413)):  # neither is a picture
        answer = client.post("/generate", json={"image": base64.b64encode(bytes(size)).decode()})
        assert answer.status_code == status, answer.text


@pytest.mark.parametrize("as_form", [False, True])
@pytest.mark.parametrize(("beyond", "status"), [(0, 415), (1, 413), (200_000, 413)])
def test_the_text_of_an_upload_may_be_in_lines_and_escaped(
    client: TestClient, services: Services, as_form: bool, beyond: int, status: int
) -> None:
    """What comes of it is counted, and nothing of it is cut."""
    content = random.Random(0).randbytes(services.settings.max_upload_mb * 1_000_000 + beyond)
    text = base64.encodebytes(content).decode().replace("\n", "%0A")
    for plain, escaped in (("+", "%2B"), ("/", "%2F"), ("=", "%3D")):
        text = text.replace(plain, escaped)
    sent = {"files": {"file": ("a.txt", text)}} if as_form else {"json": {"image": text}}
    assert client.post("/generate", **sent).status_code == status


# --- what an earlier task had or made ---


def again(services: Services, source: Remix | Extension, **asked: object) -> str:
    return accept(services, ANYONE, Submission(source, ClipRequest(**asked)))


def test_a_remix_has_the_same_input_and_another_seed(services: Services, client: TestClient) -> None:
    first = client.post("/generate", files={"file": CAT}, data={"num_frames": 9, "seed": 1, "prompt": "a cat"})
    before = services.ledger.task(first.json()["task_id"])
    remixed = services.ledger.task(again(services, Remix(before), prompt="another cat"))
    assert (remixed.remixed_from, remixed.extended_from) == (before.task_id, None)
    assert remixed.params["seed"] != 1
    changed = {"seed": remixed.params["seed"], "prompt": "another cat"}
    assert remixed.params == before.params | changed
    stored = services.storage.read(input_key(before.task_id, "picture"))
    assert stored[:3] == b"\xff\xd8\xff"
    services.storage.delete_task(before.task_id)
    assert services.storage.read(input_key(remixed.task_id, "picture")) == stored, "it has a copy of its own"


def test_a_remix_is_no_approximation_unless_it_asks_for_one(services: Services, client: TestClient) -> None:
    before = services.ledger.task(upload(client, engine="svd-xt", profile="fast"))
    exact, fast = again(services, Remix(before)), again(services, Remix(before), profile="fast")
    assert [client.get(f"/status/{each}").json()["approximate"] for each in (exact, fast)] == [False, True]


def test_a_remix_that_names_a_rate_is_as_smooth_as_it_says(services: Services, client: TestClient) -> None:
    before = services.ledger.task(upload(client, engine="svd-xt", smooth_fps=30))
    rates = [services.ledger.task(again(services, Remix(before), **asked)).params for asked in ({}, {"fps": 30})]
    assert [(params["fps"], params.get("smooth_fps")) for params in rates] == [(7, 30), (30, None)]


def test_a_remix_may_be_made_by_another_engine(services: Services, client: TestClient, finished: str) -> None:
    before = services.ledger.task(finished)
    remixed = services.ledger.task(again(services, Remix(before), engine="svd"))
    assert (remixed.engine, remixed.params["num_frames"]) == ("svd", 14)


def finish_with(services: Services, claimed: Claim) -> None:
    key = f"tasks/{claimed.task.task_id}/{claimed.step.step_id}/1/video.mp4"
    services.storage.put(key, VIDEO)
    services.ledger.finish(claimed, artifacts_at(video=key), {"output_sha256": "f" * 64}, {})


@pytest.fixture
def made(client: TestClient, services: Services, claim: Callable[[str], Claim]) -> str:
    """A finished task of 9 frames at 3 a second."""
    answer = client.post("/generate", files={"file": CAT}, data={"num_frames": 9, "fps": 3, "motion": "orbit"})
    task_id = answer.json()["task_id"]
    finish_with(services, claim(task_id))
    return task_id


def test_an_extension_is_two_steps_over_the_video_before(services: Services, made: str) -> None:
    extended_id = again(services, Extension(services.ledger.task(made)), seconds=4)
    task, (clip, join) = services.ledger.task_with_steps(extended_id)
    assert (task.extended_from, task.remixed_from) == (made, None)
    (source,) = services.ledger.inputs(extended_id).values()
    assert (source.role, source.media_type, source.sha256) == ("video", "video/mp4", "f" * 64)
    assert (clip.kind, join.kind, clip.queue, join.queue) == ("clip", "join", "cpu", "cpu")
    settled = Clip.model_validate(task.params)
    assert (settled.continues, settled.num_frames, settled.fps, settled.motion) == (9, 13, 3, "orbit")
    assert settled.seconds_in_all == pytest.approx((9 + 12) / 3)
    assert services.storage.read(input_key(task.task_id, "video")) == VIDEO
    assert (join.size, clip.size) == ("1024x576x21", "1024x576x13")
    assert 0 < join.work < clip.work, "the bar is mostly the clip's"
    assert services.ledger.claim(join.step_id, "w", 60) is None, "not before there is a clip"
    first = services.ledger.claim(clip.step_id, "w", 60)
    assert first is not None
    services.ledger.finish(first, artifacts_at(video="somewhere"), {"seed": 1}, {})
    second = services.ledger.claim(join.step_id, "w", 60)
    assert second is not None
    (needed,) = second.needs
    assert (needed.artifacts["video"].key, needed.receipt) == ("somewhere", {"seed": 1})


def test_an_extension_of_a_smooth_video_is_smooth_and_its_frames_count_as_they_play(
    services: Services, client: TestClient
) -> None:
    task_id = upload(client, engine="svd", smooth_fps=30)
    _, steps = services.ledger.task_with_steps(task_id)
    for step in steps:
        taken = services.ledger.claim(step.step_id, "w1", 60)
        assert taken is not None
        finish_with(services, taken)
    extended_id = again(services, Extension(services.ledger.task(task_id)), seconds=1)
    task, (clip, smooth, join) = services.ledger.task_with_steps(extended_id)
    assert (clip.kind, smooth.kind, join.kind) == ("clip", "smooth", "join")
    settled = Clip.model_validate(task.params)
    played_before = 13 * 30 // 7 + 1
    assert (settled.continues, settled.num_frames, settled.smooth_fps) == (played_before, 8, 30)
    assert settled.frames_in_all == played_before + 7 * 30 // 7
    with pytest.raises(InvalidParameter, match="smooth_fps must be 30, as in the video that goes on; got 24"):
        again(services, Extension(services.ledger.task(task_id)), smooth_fps=24)


def test_a_video_is_approximate_as_a_whole_or_not_at_all(services: Services, client: TestClient) -> None:
    task_id = upload(client, engine="svd", profile="fast")
    _, (step,) = services.ledger.task_with_steps(task_id)
    taken = services.ledger.claim(step.step_id, "w1", 60)
    assert taken is not None
    finish_with(services, taken)
    extension = client.post("/v1/videos/extensions", json={"video": {"id": task_id}, "seconds": "1"}).json()
    assert "profile is fast, as in the video that goes on: an approximation" in extension["warnings"]
    assert client.get(f"/status/{extension['id']}").json()["approximate"]
    with pytest.raises(InvalidParameter, match="profile must be fast, as in the video that goes on; got exact"):
        again(services, Extension(services.ledger.task(task_id)), profile="exact")


def test_what_is_not_smooth_goes_on_as_it_is(services: Services, made: str) -> None:
    with pytest.raises(InvalidParameter, match="smooth_fps must be left out, as in the video that goes on; got 30"):
        again(services, Extension(services.ledger.task(made)), smooth_fps=30)


def test_an_extension_may_be_remixed_and_extended(services: Services, made: str) -> None:
    extended = services.ledger.task(again(services, Extension(services.ledger.task(made))))
    remixed, steps = services.ledger.task_with_steps(again(services, Remix(extended)))
    assert (remixed.remixed_from, remixed.extended_from, len(steps)) == (extended.task_id, made, 2)
    assert remixed.params["continues"] == 9
    for step in steps:
        taken = services.ledger.claim(step.step_id, "w", 60)
        assert taken is not None
        key = artifact_key(step.task_id, step.step_id, 1, "video")
        services.storage.put(key, VIDEO)
        services.ledger.finish(taken, artifacts_at(video=key), {"output_sha256": "e" * 64}, {})
    done = services.ledger.task(remixed.task_id)
    assert services.ledger.task(again(services, Extension(done))).params["continues"] == 9 + 9 - 1


@pytest.mark.parametrize(
    ("name", "value"),
    [("width", 640), ("height", 640), ("fps", 25), ("quality", 30), ("engine", "svd"), ("profile", "fast")],
)
def test_what_must_not_change_in_one_video_is_refused(services: Services, made: str, name: str, value: object) -> None:
    with pytest.raises(InvalidParameter, match="as in the video that goes on") as refused:
        again(services, Extension(services.ledger.task(made)), **{name: value})
    assert refused.value.param == name


def test_the_longest_clip_that_an_engine_makes_goes_on_without_a_length(
    services: Services, client: TestClient, claim: Callable[[str], Claim]
) -> None:
    """25 frames at 7 a second: four whole seconds would be 29 more."""
    task_id = client.post("/generate", files={"file": CAT}, data={"engine": "svd-xt"}).json()["task_id"]
    finish_with(services, claim(task_id))
    answer = client.post("/v1/videos/extensions", json={"video": {"id": task_id}})
    assert (answer.status_code, answer.json().get("seconds")) == (200, "7"), answer.text


def test_a_video_does_not_go_on_for_ever(services: Services, made: str) -> None:
    with pytest.raises(InvalidParameter, match="at most 120 s"):
        again(services, Extension(services.ledger.task(made)), seconds=118)


def test_only_a_finished_video_goes_on(services: Services, client: TestClient, made: str) -> None:
    waiting = client.post("/generate", files={"file": CAT}).json()["task_id"]
    with pytest.raises(NotReady):
        again(services, Extension(services.ledger.task(waiting)))
    services.storage.delete_task(made)
    services.ledger.mark_expired(made)
    with pytest.raises(TaskGone) as gone:
        again(services, Extension(services.ledger.task(made)))
    assert gone.value.reason == "result_expired"
    with pytest.raises(TaskGone):
        again(services, Remix(services.ledger.task(made)))
    client.delete(f"/tasks/{made}")
    for kind in (Remix, Extension):
        with pytest.raises(TaskNotFound):
            again(services, kind(services.ledger.task(made)))


def test_a_remix_sent_again_is_found_though_its_source_is_deleted(
    services: Services, client: TestClient, made: str
) -> None:
    def remix() -> str:
        return accept(services, ANYONE, Submission(Remix(services.ledger.task(made)), ClipRequest(), "once"))

    first = remix()
    client.delete(f"/tasks/{made}")
    assert remix() == first


def test_a_deleted_task_is_in_no_list(services: Services, client: TestClient, made: str) -> None:
    kept = client.post("/generate", files={"file": CAT}).json()["task_id"]
    client.delete(f"/tasks/{made}")
    assert [task["task_id"] for task in client.get("/tasks").json()["tasks"]] == [kept]
    assert client.get(f"/status/{made}").json()["status"] == "finished", "the record of it stays"


def test_a_list_may_begin_with_the_oldest(services: Services, client: TestClient) -> None:
    made = [client.post("/generate", files={"file": CAT}).json()["task_id"] for _ in range(3)]
    first = services.ledger.tasks(limit=2, oldest_first=True)
    rest = services.ledger.tasks(limit=2, oldest_first=True, after=first[-1].task_id)
    assert [task.task_id for task in first + rest] == made
