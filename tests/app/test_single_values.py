"""Where one value is meant, more than one is refused: none is chosen in silence."""

import base64
import json
from collections.abc import Mapping
from typing import Any, get_args

import pytest
from fastapi.testclient import TestClient
from pydantic import BaseModel

from app.dialects.openai.forms import ContinueForm, CreateForm, VideoForm
from app.dialects.stability.image_to_video import ImageToVideoForm
from app.intake.form import LISTS
from app.routes.generate import GenerateForm
from harness.pictures import png
from tests.app.conftest import upload

PICTURE = png(64, 64)
TEXT = base64.b64encode(PICTURE).decode()
JSON = {"Content-Type": "application/json"}
FORMS: Mapping[str, tuple[type[BaseModel], str]] = {
    "/generate": (GenerateForm, "image"),
    "/v1/videos": (CreateForm, "image_url"),
    "/v1/videos/sync": (CreateForm, "image_url"),
    "/v1/videos/TASK/remix": (VideoForm, ""),
    "/v1/videos/edits": (ContinueForm, ""),
    "/v1/videos/extensions": (ContinueForm, ""),
    "/v2beta/image-to-video": (ImageToVideoForm, "image"),
}


def fields_of(form: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in form.model_fields.items()]


def refused(client: TestClient, path: str, **asked: Any) -> tuple[int, str, str]:
    answer = client.post(path.replace("TASK", upload(client)) if "TASK" in path else path, **asked)
    error = answer.json()["error"]
    return answer.status_code, error["param"], error["message"]


@pytest.mark.parametrize("path", FORMS)
def test_a_field_that_is_there_twice_is_refused_in_every_form(client: TestClient, path: str) -> None:
    form, _ = FORMS[path]
    for field in set(fields_of(form)) - set(LISTS):
        told = (422, field, f"{field} must be given once; it is there 2 times")
        parts = [(field, (None, "4")), (field, (None, "6"))]
        assert refused(client, path, files=parts) == told
        brackets = [(field, (None, "4")), (f"{field}[]", (None, "6"))]
        assert refused(client, path, files=brackets) == told
        assert refused(client, path, data={field: ["4", "6"]}) == told


@pytest.mark.parametrize(("path", "field"), [("/generate", "file"), ("/v1/videos", "input_reference")])
def test_a_file_that_is_there_twice_is_refused(client: TestClient, path: str, field: str) -> None:
    parts = [(field, ("a.png", PICTURE)), (field, ("b.png", PICTURE))]
    assert refused(client, path, files=parts)[:2] == (422, field)
    assert client.post("/v1/files", files=[("content", ("a", b"a")), ("content", ("b", b"b"))]).status_code == 422
    assert client.get("/tasks").json()["tasks"] == []


@pytest.mark.parametrize("path", FORMS)
@pytest.mark.parametrize("value", [[], [4], [4, 6], [[4]], [{"a": 1}]], ids=str)
def test_a_list_is_refused_in_every_form_as_json(client: TestClient, path: str, value: list[Any]) -> None:
    form, picture = FORMS[path]
    for field in set(fields_of(form)) - set(LISTS):
        body = json.dumps({picture: TEXT, field: value} if picture else {field: value})
        told = (422, field, f"{field} must be one value, not a list")
        assert refused(client, path, content=body, headers=JSON) == told


def test_a_list_inside_an_object_is_refused_by_its_whole_name(client: TestClient) -> None:
    for asked, name in (
        ({"extra_params": {"seed": [1, 2]}}, "extra_params[seed]"),
        ({"extra_params": '{"seed": [1, 2]}'}, "extra_params[seed]"),
        ({"input_reference": {"image_url": [TEXT]}}, "input_reference[image_url]"),
    ):
        assert refused(client, "/v1/videos", json=asked)[:2] == (422, name)


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [
        ("/generate", '{"image": "x", "fps": 4, "fps": 6}', "fps"),
        ("/v1/videos", '{"image_url": "x", "seconds": "4", "seconds": "4"}', "seconds"),
        ("/v1/videos", '{"image_url": "x", "extra_params": {"seed": 1, "seed": 2}}', "seed"),
        ("/v1/videos", '{"image_url": "x", "extra_params": "{\\"seed\\": 1, \\"seed\\": 2}"}', "seed"),
        ("/v2beta/image-to-video", '{"image": "x", "seed": 4, "seed": 6}', "seed"),
        ("/v1/predictions", '{"version": "preview", "version": "svd", "input": {}}', "version"),
        ("/v1/predictions", '{"version": "preview", "input": {"fps": 4, "fps": 6}}', "fps"),
        ("/webhooks", '{"url": "https://example.com/", "url": "https://example.org/"}', "url"),
    ],
)
def test_a_name_that_is_there_twice_in_json_is_refused(client: TestClient, path: str, body: str, name: str) -> None:
    told = (422, name, f"{name} must be given once; it is there 2 times")
    assert refused(client, path, content=body, headers=JSON) == told


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"fps": 4, "frames_per_second": 6}, "fps"),
        ({"cond_aug": 0.1, "noise_aug_strength": 0.2}, "noise_aug_strength"),
        ({"video_length": "14_frames_with_svd", "num_frames": 25}, "num_frames"),
        ({"input_image": TEXT}, "image"),
        ({"input_image": []}, "image"),
        ({"fps": [4, 6]}, "fps"),
        ({"image": [TEXT]}, "image"),
    ],
    ids=str,
)
def test_a_prediction_is_asked_for_with_one_value_of_each(
    client: TestClient, asked: dict[str, Any], param: str
) -> None:
    body = {"version": "preview", "input": {"image": TEXT} | asked}
    assert refused(client, "/v1/predictions", json=body)[:2] == (422, param)


def test_a_prediction_is_of_one_model(client: TestClient) -> None:
    body = {"version": "preview", "model": "svd", "input": {"image": TEXT}}
    assert refused(client, "/v1/predictions", json=body)[:2] == (422, "model")
    del body["version"]
    assert refused(client, "/v1/models/kinora/preview/predictions", json=body)[:2] == (422, "model")


def test_a_list_is_a_list_however_it_is_written(client: TestClient) -> None:
    events = ["task.started", "task.failed"]
    told = {"image": TEXT, "callback_url": "https://example.com/told"}
    answers = [
        client.post("/generate", json=told | {"callback_events": events}),
        client.post("/generate", data=told | {"callback_events": events}),
        client.post("/generate", data=told | {"callback_events[]": events}),
        client.post("/generate", data=told | {"callback_events": events[0], "callback_events[]": events[1]}),
    ]
    services = client.app.state.services
    made = [services.ledger.task(answer.json()["task_id"]) for answer in answers]
    assert [task.callback_events for task in made] == [events] * 4
    assert refused(client, "/generate", json=told | {"callback_events": []})[:2] == (422, "callback_events")


def test_the_fields_that_hold_more_than_one_value_are_named_where_forms_are_read() -> None:
    lists = {
        field.alias or name
        for form, _ in FORMS.values()
        for name, field in form.model_fields.items()
        if any(getattr(kind, "__origin__", None) is list for kind in (field.annotation, *get_args(field.annotation)))
    }
    assert lists == set(LISTS)
