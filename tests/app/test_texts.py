"""What a caller writes: what one of the databases cannot hold is refused alike on both, in each dialect; the rest is
bounded in bytes."""

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient
from httpx import Response

from app.main import create_app
from core.config.settings import Settings
from core.requests.clip import MAX_PROMPT, MAX_PROMPT_BYTES
from sandbox.decoder import Decoder
from tests.app.test_validation import CLIP, JSON, SMALL

CALL = {"jsonrpc": "2.0", "id": 1, "method": "tools/call"}
FORM = {"Content-Type": "multipart/form-data; boundary=B"}
URLENCODED = {"Content-Type": "application/x-www-form-urlencoded"}
WRONG = {"must hold no NUL": ("\0", b"\0"), "must be text in UTF-8": ("\ud800", b"\xed\xa0\x80")}


@pytest.fixture
def both(database_url: str, settings: Settings, shared_decoder: Decoder) -> Iterator[TestClient]:
    """A client of a service at each database in turn."""
    at_database = settings.model_copy(update={"database_url": database_url})
    with TestClient(create_app(at_database, shared_decoder), raise_server_exceptions=False) as client:
        yield client


def refused(answer: Response) -> tuple[int, str, str | None]:
    error = answer.json()["error"]
    assert error["code"] == "invalid_parameter"
    return answer.status_code, error["message"], error["param"]


def no_task(client: TestClient) -> bool:
    return client.get("/tasks").json()["tasks"] == []


IN_JSON: dict[str, tuple[str, dict[str, Any], str]] = {
    "prompt": ("/generate", {"image": SMALL, "prompt": "aBADb"} | CLIP, "prompt"),
    "name": ("/generate", {"image": SMALL, "aBADb": 1} | CLIP, "a{}b"),
    "list": ("/generate", {"image": SMALL, "callback_events": ["BAD"]} | CLIP, "callback_events"),
    "picture": ("/generate", {"image": f"{SMALL}BAD"} | CLIP, "image"),
    "picture-url": ("/generate", {"image_url": "https://example.com/BAD"} | CLIP, "image_url"),
    "openai": ("/v1/videos", {"image_url": SMALL, "prompt": "aBADb"} | CLIP, "prompt"),
    "openai-unused": ("/v1/videos", {"image_url": SMALL, "negative_prompt": "BAD"} | CLIP, "negative_prompt"),
    "openai-inside": ("/v1/videos", {"image_url": SMALL, "extra_params": {"prompt": "BAD"}} | CLIP, "prompt"),
    "openai-id": ("/v1/videos/edits", {"video[id]": "BAD"}, "video[id]"),
    "replicate": ("/v1/predictions", {"version": "preview", "input": {"image": SMALL, "prompt": "BAD"}}, "prompt"),
    "replicate-name": ("/v1/predictions", {"version": "preview", "input": {"image": SMALL, "aBADb": 1}}, "a{}b"),
    "replicate-version": ("/v1/predictions", {"version": "BAD", "input": {"image": SMALL}}, "version"),
    "endpoint": ("/webhooks", {"url": "https://example.com/BAD"}, "url"),
    "endpoint-name": ("/webhooks", {"url": "https://example.com/", "aBADb": 1}, "a{}b"),
}


@pytest.mark.parametrize("rule", WRONG)
@pytest.mark.parametrize("where", IN_JSON)
def test_what_a_database_cannot_hold_is_refused_in_json(both: TestClient, where: str, rule: str) -> None:
    path, body, param = IN_JSON[where]
    escaped = json.dumps(WRONG[rule][0])[1:-1]
    answer = both.post(path, content=json.dumps(body).replace("BAD", escaped), headers=JSON)
    status, message, named = refused(answer)
    assert (status, named) == (422, param.format(escaped))
    assert message.endswith(rule)
    assert no_task(both)


def part(name: bytes, value: bytes) -> bytes:
    return b'--B\r\nContent-Disposition: form-data; name="' + name + b'"\r\n\r\n' + value + b"\r\n"


@pytest.mark.parametrize("rule", WRONG)
@pytest.mark.parametrize("path", ["/generate", "/v1/videos", "/v2beta/image-to-video"])
def test_what_a_database_cannot_hold_is_refused_in_forms(both: TestClient, path: str, rule: str) -> None:
    wrong = WRONG[rule][1]
    for name, value in ((b"prompt", b"a" + wrong), (b"a" + wrong, b"x")):
        body = part(b"image", SMALL.encode()) + part(name, value) + b"--B--\r\n"
        urlencoded = f"{quote(name)}={quote(value)}&image={quote(SMALL)}"
        for answer in (
            both.post(path, content=body, headers=FORM),
            both.post(path, content=urlencoded, headers=URLENCODED),
        ):
            status, message, param = refused(answer)
            assert status == 422
            assert message.endswith(rule)
            assert (param == "prompt") == (name == b"prompt")
            assert param is not None
            assert param.isprintable()
    assert no_task(both)


def test_a_form_in_utf8_is_read_as_it_was_written(both: TestClient) -> None:
    said = "Grüße, 猫 😀 + 1 %"
    for answer in (
        both.post("/v1/videos", files={"image_url": (None, SMALL)}, data=CLIP | {"prompt": said}),
        both.post("/v1/videos", data=CLIP | {"image_url": SMALL, "prompt": said}),
        both.post("/v1/videos", json=CLIP | {"image_url": SMALL, "prompt": said}),
    ):
        assert answer.json()["prompt"] == said
        assert both.get(f"/status/{answer.json()['id']}").json()["params"]["prompt"] == said


@pytest.mark.parametrize(
    ("call", "param"),
    [
        ({"name": "make_video", "arguments": {"picture": SMALL, "clip": CLIP | {"prompt": "a\0"}}}, "prompt"),
        ({"name": "make_video", "arguments": {"picture": SMALL, "\0": 1}}, r"the name of the field \u0000"),
        ({"name": "get_task", "arguments": {"task_id": "\0"}}, "task_id"),
        ({"name": "\0", "arguments": {}}, "name"),
    ],
    ids=["prompt", "argument", "id", "tool"],
)
def test_a_nul_is_refused_by_mcp(both: TestClient, call: dict[str, Any], param: str) -> None:
    said = both.post("/mcp", json=CALL | {"params": call}).json()["result"]
    assert said["isError"]
    assert said["content"][0]["text"] == f"invalid_parameter: {param} must hold no NUL"
    assert no_task(both)


def test_half_of_a_pair_of_surrogates_is_no_json_to_mcp(both: TestClient) -> None:
    call = {"name": "make_video", "arguments": {"picture": SMALL, "clip": CLIP | {"prompt": "\ud800"}}}
    answer = both.post("/mcp", content=json.dumps(CALL | {"params": call}), headers=JSON)
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, "the body is no JSON")
    assert no_task(both)


def test_a_nul_is_refused_in_an_idempotency_key(both: TestClient) -> None:
    answer = both.post("/generate", json={"image": SMALL} | CLIP, headers={"Idempotency-Key": b"a\0b"})
    assert refused(answer) == (422, "Idempotency-Key must hold no NUL", "Idempotency-Key")
    assert no_task(both)


def asked(client: TestClient, prompt: str) -> list[tuple[str, Response]]:
    """Ask for a clip with the prompt, in each dialect that has one."""
    body = {"prompt": prompt} | CLIP
    return [
        ("prompt", client.post("/generate", json={"image": SMALL} | body)),
        ("prompt", client.post("/v1/videos", json={"image_url": SMALL} | body)),
        ("prompt", client.post("/v1/videos", data={"image_url": SMALL} | body)),
        ("negative_prompt", client.post("/v1/videos", json={"image_url": SMALL, "negative_prompt": prompt} | CLIP)),
        ("prompt", client.post("/v1/predictions", json={"version": "preview", "input": {"image": SMALL} | body})),
    ]


def test_a_prompt_is_bounded_in_bytes_in_each_dialect(client: TestClient) -> None:
    fits, too_long = "猫" * MAX_PROMPT, "😀" * (MAX_PROMPT_BYTES // 4 + 1)
    assert {answer.status_code for _, answer in asked(client, fits)} <= {200, 201, 202}
    for param, answer in asked(client, too_long):
        assert refused(answer) == (422, f"{param} must have at most 12000 bytes in UTF-8; got 12004", param)
    call = {"name": "make_video", "arguments": {"picture": SMALL, "clip": CLIP | {"prompt": too_long}}}
    said = client.post("/mcp", json=CALL | {"params": call}).json()["result"]["content"][0]["text"]
    assert said == "invalid_parameter: clip.prompt must have at most 12000 bytes in UTF-8; got 12004"
