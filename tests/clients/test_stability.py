"""Code written for Stability's image-to-video, with `requests` as its documentation had it."""

import base64
import time
from io import BytesIO
from typing import Any

import pytest
import requests
from PIL import Image

from app.dialects.stability.image_to_video import ImageToVideoForm, check_size, request_of
from core.errors import InvalidParameter
from harness.pictures import SAMPLES
from tests.clients.conftest import Service, frames_of


def photo(width: int, height: int) -> bytes:
    """Of that size."""
    data = BytesIO()
    Image.open(SAMPLES / "cat.jpg").resize((width, height)).save(data, "JPEG")
    return data.getvalue()


def generate(service: Service, picture: bytes, **data: Any) -> requests.Response:
    return requests.post(
        f"{service.url}/v2beta/image-to-video",
        headers={"authorization": f"Bearer {service.ann}"},
        files={"image": picture},
        data=data,
        timeout=30,
    )


def result(service: Service, generation_id: str, accept: str, key: str | None = None) -> requests.Response:
    """Asked for until it is there, as the vendor's example does."""
    while True:
        response = requests.request(
            "GET",
            f"{service.url}/v2beta/image-to-video/result/{generation_id}",
            headers={"accept": accept, "authorization": f"Bearer {key or service.ann}"},
            timeout=30,
        )
        if response.status_code != 202:
            return response
        assert response.json() == {"id": generation_id, "status": "in-progress"}
        time.sleep(0.1)


@pytest.mark.parametrize("size", [(1024, 576), (576, 1024), (768, 768)])
def test_a_picture_of_each_size_becomes_a_clip_of_that_size(service: Service, size: tuple[int, int]) -> None:
    response = generate(service, photo(*size), seed=0, cfg_scale=1.8, motion_bucket_id=127)
    assert response.status_code == 200, response.text
    assert set(response.json()) == {"id"}
    found = result(service, response.json()["id"], "video/*")
    assert (found.status_code, found.headers["finish-reason"]) == (200, "SUCCESS")
    assert (found.headers["content-type"], found.headers["vary"]) == ("video/mp4", "Accept")
    assert int(found.headers["seed"]) > 0
    assert frames_of(found.content)[1:] == size


def test_the_video_comes_as_json_too(service: Service) -> None:
    generation_id = generate(service, photo(768, 768), seed=42).json()["id"]
    found = result(service, generation_id, "application/json")
    assert (found.headers["content-type"], found.headers["vary"]) == ("application/json", "Accept")
    assert result(service, generation_id, "Application/JSON").content == found.content
    body = found.json()
    assert (body["finish_reason"], body["seed"]) == ("SUCCESS", 42)
    assert base64.b64decode(body["video"]) == result(service, generation_id, "video/*").content


@pytest.mark.parametrize(
    ("size", "data", "said"),
    [
        ((800, 600), {}, "image must be one of 1024×576, 576×1024, 768×768; got 800×600"),
        ((768, 768), {"cfg_scale": "0.5"}, "cfg_scale must be at least 1; got 0.5"),
        ((768, 768), {"motion_bucket_id": "256"}, "motion_bucket_id must be at most 255; got 256"),
        ((768, 768), {"seed": "4294967295"}, "seed must be at most 4294967294; got 4294967295"),
        ((768, 768), {"prompt": "a cat"}, "prompt is not a known field"),
    ],
)
def test_a_refusal_can_be_read_as_stabilitys_was(
    service: Service, size: tuple[int, int], data: dict[str, str], said: str
) -> None:
    response = generate(service, photo(*size), **data)
    body = response.json()
    assert (response.status_code, body["name"]) == (422, "invalid_parameter")
    assert body["errors"][0].startswith(said)
    assert body["id"] == response.headers["x-request-id"]
    assert body["error"]["param"] == said.split()[0]


def test_an_unknown_generation_and_anothers_are_not_there(service: Service) -> None:
    mine = generate(service, photo(768, 768)).json()["id"]
    for generation_id, key in (("0" * 32, service.ann), (mine, service.bob)):
        response = result(service, generation_id, "video/*", key)
        assert (response.status_code, response.json()["name"]) == (404, "task_not_found")
    assert generate(service._replace(ann="nobody"), photo(768, 768)).json()["name"] == "unauthorized"


def test_what_was_canceled_says_so(service: Service) -> None:
    generation_id = generate(service, photo(768, 768)).json()["id"]
    requests.delete(f"{service.url}/tasks/{generation_id}", headers={"X-API-Key": service.ann}, timeout=30)
    response = result(service, generation_id, "application/json")
    assert response.status_code == 410
    assert response.json()["name"] in ("task_canceled", "result_expired")


def test_the_picture_may_lie_on_its_side(service: Service) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = BytesIO()
    Image.open(SAMPLES / "cat.jpg").resize((576, 1024)).save(data, "JPEG", exif=exif)
    assert frames_of(result(service, generate(service, data.getvalue()).json()["id"], "video/*").content)[1:] == (
        1024,
        576,
    )


def test_the_names_are_translated() -> None:
    asked = request_of(ImageToVideoForm(seed=7, cfg_scale=2.5, motion_bucket_id=40)).model_dump(exclude_none=True)
    assert asked == {"seed": 7, "max_guidance_scale": 2.5, "motion_bucket_id": 40}
    asked = request_of(ImageToVideoForm()).model_dump(exclude_none=True)
    assert asked == {"max_guidance_scale": 1.8, "motion_bucket_id": 127}
    assert check_size((576, 1024)) == {"width": 576, "height": 1024}
    with pytest.raises(InvalidParameter, match="768×768"):
        check_size((1024, 1024))
