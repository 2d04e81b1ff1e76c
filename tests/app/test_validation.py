"""What a value that is refused is told, whichever parameter of whichever route it is for."""

import base64
import json
import math
import re
import sys
from typing import Any, get_args

import pytest
from fastapi.testclient import TestClient
from httpx import Response
from pydantic_core.core_schema import ErrorType

from app.validation import PATTERNS, RULES
from core.requests.clip import ClipRequest
from harness.pictures import png
from tests.app.conftest import upload

SMALL = base64.b64encode(png(64, 64)).decode()
OF_SVD = base64.b64encode(png(1024, 576)).decode()
JSON = {"Content-Type": "application/json"}
WRONG = ["x", "", "½", "\ud800", "\0", "a" * 5000, True, None, [], [4, 6], {"a": 1}, 1.5]
HUGE = 10**400
EDGES = [0, -0.0, -1, math.ulp(0.0), -math.ulp(0.0), 0.999, 2**31, 2**32, 2**63, sys.float_info.max, HUGE, math.nan]
# What pydantic, FastAPI and Starlette say, how Python writes what JSON has, and numbers that nobody writes.
NOT_OURS = re.compile(
    r"pydantic|Input should|should (be|have|match)|[Vv]alue error|[Vv]alidation error|unable to parse|Field required|"
    r"Extra inputs|UploadFile|JSON decode|parsing the body|\\d|\^|\bNone\b|\bTrue\b|from .*e\+|\d{5,} bytes"
)


CLIP = {"engine": "preview", "width": 64, "height": 64, "num_frames": 2}
# Each route with a body, with its schema and with what is enough to be taken. TASK is an earlier task.
ROUTES: dict[str, tuple[str, dict[str, Any]]] = {
    "/generate": ("GenerateForm", {"image": SMALL} | CLIP),
    "/v1/videos": ("CreateForm", {"image_url": SMALL} | CLIP),
    "/v1/videos/TASK/remix": ("VideoForm", {}),
    "/v1/videos/edits": ("ContinueForm", {"video[id]": "TASK"}),
    "/v2beta/image-to-video": ("ImageToVideoForm", {"image": OF_SVD}),
    "/v1/predictions": ("NewPrediction", {"version": "preview", "input": {"image": SMALL} | CLIP}),
    "/webhooks": ("EndpointRequest", {"url": "https://example.com/"}),
}
OF_REPLICATE = ("frames_per_second", "cond_aug", "decoding_t", "video_length", "sizing_strategy", "input_image")


# With which a field may clash, or what is in it.
NEAR = {"model": {"engine", "version"}, "input": {"input_image"}, "size": {"width", "height"}, "video[id]": {"video"}}
NEAR |= {
    "num_frames": {"seconds", "video_length"},
    "seconds": {"num_frames"},
    "extra_params": {"a"},
    "version": {"model"},
}
NEAR |= {"fps": {"frames_per_second"}, "frames_per_second": {"fps"}, "version": {"model"}}


def check(answer: Response, field: str) -> None:
    """A refusal is in our words, and says of which field it is, by the name that was sent."""
    if answer.status_code < 300 or (field == "video[id]" and answer.status_code == 404):
        return
    error = answer.json()["error"]
    assert answer.status_code in (413, 415, 422), answer.text
    assert not NOT_OURS.search(error["message"].partition("; got")[0]), error
    names = {field.partition("[")[0], "file", "image", "image_url", "input_reference"} | NEAR.get(field, set())
    assert error["param"].partition("[")[0] in names, error
    assert error["param"] in error["message"], error


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("values", [WRONG, EDGES], ids=["words and lists", "numbers"])
def test_a_body_is_refused_in_our_words_and_with_the_fields_name(
    client: TestClient, path: str, values: list[Any]
) -> None:
    task_id = upload(client, width=64, height=64, num_frames=2)
    schema, body = ROUTES[path]
    body = {name: task_id if value == "TASK" else value for name, value in body.items()}
    for field in [*client.get("/openapi.json").json()["components"]["schemas"][schema]["properties"], "no_such"]:
        for value in values:
            sent = json.dumps(body | {field: value})
            check(client.post(path.replace("TASK", task_id), content=sent, headers=JSON), field)


@pytest.mark.parametrize("values", [WRONG, EDGES], ids=["words and lists", "numbers"])
def test_the_input_of_a_prediction_is_refused_likewise(client: TestClient, values: list[Any]) -> None:
    for field in [*ClipRequest.model_fields, *OF_REPLICATE, "no_such"]:
        for value in values:
            sent = json.dumps({"version": "preview", "input": {"image": SMALL, field: value}})
            check(client.post("/v1/predictions", content=sent, headers=JSON), field)


def test_a_query_is_refused_likewise(client: TestClient) -> None:
    task_id = upload(client)
    for path, methods in client.get("/openapi.json").json()["paths"].items():
        for method, name in ((verb, each["name"]) for verb in methods for each in queries(methods[verb])):
            url = path.replace("{task_id}", task_id).replace("{video_id}", task_id)
            for value in ("", "x", "\0", "½", "-1", "0", "1.5", "1e400", "9" * 5000):
                answer = client.request(method, url, params={name: value})
                assert answer.status_code in (404, 409) or check(answer, name) is None
            answer = client.request(method, url, params=[(name, "1"), (name, "2")])
            error = answer.json()["error"]
            assert (answer.status_code, error["param"]) == (422, name)
            assert error["message"] == f"{name} must be given once; it is there 2 times"


def queries(operation: dict[str, Any]) -> list[dict[str, Any]]:
    return [each for each in operation.get("parameters", []) if each["in"] == "query"]


@pytest.mark.parametrize(
    ("path", "sent", "param", "message"),
    [
        ("/generate", {"width": "wide"}, "width", "width must be a whole number; got wide"),
        ("/generate", {"width": 64.5}, "width", "width must be a whole number; got 64.5"),
        ("/generate", {"seed": 2**32}, "seed", "seed must be from 0 to 4294967295; got 4294967296"),
        ("/generate", {"seconds": 5e-324}, "seconds", "seconds must be from 0.29 to 600; got 5e-324"),
        ("/generate", {"seconds": 0}, "seconds", "seconds must be more than 0; got 0"),
        ("/generate", {"seconds": math.nan}, "seconds", "seconds must be a number; got NaN"),
        ("/generate", {"reuse": "maybe"}, "reuse", "reuse must be true or false; got maybe"),
        ("/generate", {"prompt": "a" * 4001}, "prompt", "prompt must have at most 4000 characters; got 4001"),
        ("/generate", {"no_such": 1}, "no_such", "no_such is not a known field"),
        ("/generate", {"callback_events": ["task.born"]}, "callback_events",
         "callback_events must be one of task.started, task.progress, task.finished, task.failed, task.canceled; "
         "got task.born"),
        ("/v1/videos", {"size": "wide"}, "size", "size must be WIDTHxHEIGHT, as 1280x720; got wide"),
        ("/v1/videos", {"n": 2}, "n", "n must be at most 1; got 2"),
        ("/v2beta/image-to-video", {"cfg_scale": 0.5}, "cfg_scale", "cfg_scale must be at least 1; got 0.5"),
        ("/v1/predictions", {"input": {"image": SMALL, "frames_per_second": "x"}}, "frames_per_second",
         "frames_per_second must be a whole number; got x"),
        ("/v1/predictions", {"input": {"image": SMALL, "fps": True}}, "fps", "fps must be a whole number; got true"),
        ("/v1/predictions", {"input": []}, "input", "input must be an object; got []"),
        ("/v1/predictions", {"webhook_events_filter": []}, "webhook_events_filter",
         "webhook_events_filter must have 1 or more values; got 0"),
        ("/webhooks", {"url": None}, "url", "url must be text; got null"),
        ("/webhooks", {"url": "example.com"}, "url", "url must be a URL that begins with http:// or https://"),
        ("/webhooks", {"events": ["task.failed", 7]}, "events",
         "events must be one of task.started, task.progress, task.finished, task.failed, task.canceled; got 7"),
    ],
)  # fmt: skip
def test_the_message_says_what_the_value_must_be(
    client: TestClient, path: str, sent: dict[str, Any], param: str, message: str
) -> None:
    enough = {name: value for name, value in ROUTES[path][1].items() if name not in ("width", "height", "num_frames")}
    answer = client.post(path, content=json.dumps(enough | sent), headers=JSON)
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, param), answer.text
    assert answer.json()["error"]["message"] == message


@pytest.mark.parametrize("path", ["/webhooks", "/v1/predictions"])
@pytest.mark.parametrize("body", ["", "[]", "null", '"text"', "7"])
def test_a_body_that_is_no_object_is_refused(client: TestClient, path: str, body: str) -> None:
    answer = client.post(path, content=body, headers=JSON)
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, None)
    assert answer.json()["error"]["message"] == "the body must be a JSON object"


@pytest.mark.parametrize("path", ["/generate", "/v1/videos", "/v1/predictions", "/webhooks"])
@pytest.mark.parametrize("body", [b"{", b"\xff", b'{"a": 1,}', b"[" * 50_000])
def test_a_body_that_is_no_json_is_refused(client: TestClient, path: str, body: bytes) -> None:
    answer = client.post(path, content=body, headers=JSON)
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, "the body is no JSON")


@pytest.mark.parametrize("path", ["/generate", "/v1/videos", "/v1/predictions", "/webhooks"])
def test_a_number_of_any_length_is_refused_as_one(client: TestClient, path: str) -> None:
    answer = client.post(path, content='{"url": ' + "9" * 5000 + "}", headers=JSON)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_parameter")


def test_an_empty_file_is_refused_before_it_is_handed_over(client: TestClient) -> None:
    for files in ({"content": ("a.png", b"")}, {"other": ("a.png", b"x")}):
        answer = client.post("/v1/files", files=files)
        assert (answer.status_code, answer.json()["error"]["param"]) == (422, "content"), answer.text


def test_each_kind_of_error_and_each_pattern_has_words(client: TestClient) -> None:
    assert set(RULES) <= set(get_args(ErrorType))
    written = json.dumps(client.get("/openapi.json").json())
    assert {json.loads(f'"{found}"') for found in re.findall(r'"pattern": "([^"]*)"', written)} == set(PATTERNS)
