"""/v1/videos without a worker: what is asked for, and what is said of it. The real client is in tests/clients."""

import base64
import json
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.dialects.openai import content as video_content
from app.dialects.openai.video_object import poll_after_ms
from app.services import Services
from core.concurrency import ConcurrencyLimit
from core.task import Claim, ErrorInfo
from harness.pictures import CAT
from harness.servers import wait_until
from tests.app.conftest import VIDEO, upload, worker_that_says
from tests.conftest import artifacts_at

JSON_CAT = base64.b64encode(CAT).decode()
DATA_URL = f"data:image/jpeg;base64,{JSON_CAT}"


def create(client: TestClient, **fields: Any) -> dict[str, Any]:
    answer = client.post("/v1/videos", files={"input_reference": CAT}, data={"prompt": "a cat"} | fields)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def refused(answer: Any) -> tuple[int, str, str]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"]


def test_a_video_has_all_that_openais_has(client: TestClient) -> None:
    video = create(client, seconds="4", size="1024x576", seed=7)
    assert video | {"id": "", "created_at": 0} == {
        "id": "",
        "object": "video",
        "status": "queued",
        "progress": 0,
        "created_at": 0,
        "completed_at": None,
        "expires_at": None,
        "model": "preview",
        "prompt": "a cat",
        "seconds": "4",
        "size": "1024x576",
        "remixed_from_video_id": None,
        "extended_from_video_id": None,
        "error": None,
        "queue_position": 1,
        "eta_seconds": None,
        "seed": 7,
        "warnings": ["prompt is not used by the engine preview"],
    }
    assert client.get(f"/v1/videos/{video['id']}").json() == video


@pytest.mark.parametrize(
    "body",
    [
        {"input_reference": JSON_CAT},
        {"input_reference": DATA_URL},
        {"input_reference": {"image_url": DATA_URL}},
        {"image_reference": {"image_url": DATA_URL}},
        {"image_reference": json.dumps({"image_url": DATA_URL})},
        {"reference_url": DATA_URL},
        {"image_url": DATA_URL},
    ],
    ids=lambda body: f"{next(iter(body))} {type(next(iter(body.values()))).__name__}",
)
def test_a_picture_may_come_by_any_name_in_json_and_in_a_form(client: TestClient, body: dict[str, Any]) -> None:
    assert client.post("/v1/videos", json={"prompt": "a cat"} | body).status_code == 200
    name, value = next(iter(body.items()))
    field = {f"{name}[image_url]": value["image_url"]} if isinstance(value, dict) else body
    parts = {key: (None, text) for key, text in {"prompt": "a cat", **field}.items()}
    assert client.post("/v1/videos", files=parts).status_code == 200


def test_a_picture_is_fetched_by_its_url_as_anywhere_else(client: TestClient) -> None:
    answer = client.post("/v1/videos", json={"prompt": "", "reference_url": "http://10.0.0.1/cat.jpg"})
    assert refused(answer)[:2] == (422, "destination_forbidden")


def test_a_missing_picture_is_named(client: TestClient) -> None:
    assert refused(client.post("/v1/videos", json={"prompt": "a cat"})) == (422, "file_missing", "input_reference")
    both = {"input_reference": JSON_CAT, "image_url": DATA_URL}
    assert refused(client.post("/v1/videos", json=both)) == (422, "invalid_parameter", "image_url")


def test_the_names_of_sglang_and_vllm_are_understood(client: TestClient, services: Services) -> None:
    services.ledger.report_worker(worker_that_says("gpu", "cuda:0", "svd-xt", None))
    body = {
        "prompt": "a cat",
        "negative_prompt": "a dog",
        "model": "svd-xt",
        "width": 512,
        "height": 512,
        "fps": 6,
        "num_frames": 12,
        "seed": 7,
        "num_inference_steps": 20,
        "guidance_scale": 2.5,
        "n": 1,
        "enable_frame_interpolation": False,
        "enable_upscaling": False,
        "extra_params": {"motion_bucket_id": 40, "noise_aug_strength": 0.1},
        "reference_url": DATA_URL,
    }
    as_text = {name: json.dumps(value) if isinstance(value, dict) else str(value) for name, value in body.items()}
    made = [client.post("/v1/videos", json=body), client.post("/v1/videos", data=as_text)]
    for answer in made:
        assert answer.status_code == 200, answer.text
        params = services.ledger.task(answer.json()["id"]).params
        assert params["max_guidance_scale"] == 2.5
        assert (params["motion_bucket_id"], params["noise_aug_strength"]) == (40, 0.1)
        assert (params["num_frames"], params["num_inference_steps"], params["seed"]) == (12, 20, 7)
        assert answer.json()["warnings"][0] == "negative_prompt is not used by any engine here"
        assert (answer.json()["size"], answer.json()["seconds"]) == ("512x512", "2")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": "2"}, "n"),
        ({"enable_upscaling": "true"}, "enable_upscaling"),
        ({"enable_frame_interpolation": "true"}, "enable_frame_interpolation"),
        ({"model": "sora-3"}, "model"),
        ({"model": "preview", "engine": "preview"}, "engine"),
        ({"size": "large"}, "size"),
        ({"size": "1280x720", "width": "64"}, "width"),
        ({"size": "2000x2000"}, "size"),
        ({"guidance_scale": "20", "engine": "svd-xt"}, "guidance_scale"),
        ({"guidance_scale": "2", "max_guidance_scale": "2"}, "max_guidance_scale"),
        ({"seconds": "0"}, "seconds"),
        ({"seconds": "four"}, "seconds"),
        ({"lora": "x"}, "lora"),
        ({"extra_params": "[]"}, "extra_params"),
        ({"extra_params": "{"}, "extra_params"),
        ({"extra_params": "[" * 10_000}, "extra_params"),
        ({"extra_params": '{"tea": 1}'}, "tea"),
        ({"extra_params": '{"seed": 1}', "seed": "2"}, "seed"),
        ({"input_reference[file_id]": "file-1"}, "input_reference[file_id]"),
    ],
    ids=str,
)
def test_what_cannot_be_had_is_refused_by_name(client: TestClient, fields: dict[str, str], param: str) -> None:
    answer = client.post("/v1/videos", files={"input_reference": CAT}, data=fields)
    assert refused(answer) == (422, "invalid_parameter", param)


def test_an_unknown_model_lists_the_choices(client: TestClient) -> None:
    answer = client.post("/v1/videos", files={"input_reference": CAT}, data={"model": "sora-3"})
    message = "model must be one of auto, svd-xt, svd, turbo, preview, sora-2, sora-2-pro; 'sora-3' is not known"
    assert answer.json()["error"]["message"] == message


@pytest.mark.parametrize("model", ["sora-2", "sora-2-pro", "sora-2-2025-10-06", "sora-2-pro-2025-10-06"])
def test_openais_models_are_the_default_engine_with_a_warning(client: TestClient, model: str) -> None:
    video = create(client, model=model, prompt="")
    assert video["model"] == "preview"
    assert video["warnings"] == [f"there is no model {model} here: an engine of this service took its place"]


@pytest.mark.parametrize(
    ("asked", "made"),
    [("1280x720", "1024x576"), ("720x1280", "576x1024"), ("1792x1024", "1024x576"), ("1024x1792", "576x1024")],
)
def test_openais_sizes_are_made_as_the_largest_of_their_shape(
    client: TestClient, services: Services, asked: str, made: str
) -> None:
    services.ledger.report_worker(worker_that_says("gpu", "cuda:0", "svd-xt", None))
    for model in ("", "auto", "sora-2"):
        video = create(client, model=model, size=asked)
        assert (video["model"], video["size"]) == ("svd-xt", made)
        assert f"size is {made} instead of {asked}: the engine svd-xt makes at most 1024x1024" in video["warnings"]
    at_its_word = client.post("/v1/videos", files={"input_reference": CAT}, data={"model": "svd-xt", "size": asked})
    assert refused(at_its_word)[:2] == (422, "invalid_parameter")


def test_an_engine_that_can_make_openais_sizes_makes_them(client: TestClient) -> None:
    video = create(client, size="1280x720", prompt="")
    assert (video["size"], video["warnings"]) == ("1280x720", [])


def test_a_size_of_nobodys_is_not_made_to_fit(client: TestClient) -> None:
    answer = client.post("/v1/videos", files={"input_reference": CAT}, data={"size": "4000x2000"})
    assert refused(answer) == (422, "invalid_parameter", "size")
    assert answer.json()["error"]["message"] == "size: width must be from 64 to 1920, a multiple of 2; got 4000"


def test_the_states_have_openais_names(client: TestClient, services: Services, claim: Callable[[str], Claim]) -> None:
    video_id = create(client)["id"]
    taken = claim(video_id)
    services.ledger.renew(taken, 60, progress=42, phase="render")
    video = client.get(f"/v1/videos/{video_id}").json()
    assert (video["status"], video["progress"], video["queue_position"]) == ("in_progress", 42, None)
    services.ledger.finish(taken, {}, {}, {})
    video = client.get(f"/v1/videos/{video_id}").json()
    assert (video["status"], video["progress"]) == ("completed", 100)
    assert video["expires_at"] - video["completed_at"] == 7 * 24 * 3600


def test_a_failed_video_is_no_error_to_ask_for(
    client: TestClient, services: Services, claim: Callable[[str], Claim]
) -> None:
    failed, canceled = create(client)["id"], create(client)["id"]
    services.ledger.fail(claim(failed), ErrorInfo("gpu_out_of_memory", "too big"))
    client.post(f"/cancel/{canceled}")
    answers = [client.get(f"/v1/videos/{video_id}") for video_id in (failed, canceled)]
    assert [(answer.status_code, answer.json()["status"]) for answer in answers] == [(200, "failed")] * 2
    assert [answer.json()["error"]["code"] for answer in answers] == ["gpu_out_of_memory", "task_canceled"]
    assert [answer.json()["completed_at"] for answer in answers] == [None, None]
    assert client.get(f"/v1/videos/{failed}/content").json()["error"]["code"] == "gpu_out_of_memory"


@pytest.mark.parametrize(("eta", "ms"), [(None, 1000), (0.3, 250), (30.0, 3000), (3600.0, 10_000)])
def test_the_client_is_told_when_to_ask_again(client: TestClient, eta: float | None, ms: int) -> None:
    assert poll_after_ms(eta) == ms
    assert client.get(f"/v1/videos/{create(client)['id']}").headers["openai-poll-after-ms"] == "1000"


def test_a_list_holds_every_task_and_pages_both_ways(client: TestClient) -> None:
    made = [create(client)["id"], upload(client), create(client)["id"]]
    for order, expected in (("asc", made), ("desc", made[::-1])):
        found, after = [], {}
        while True:
            page = client.get("/v1/videos", params={"limit": 2, "order": order} | after).json()
            ids = [video["id"] for video in page["data"]]
            assert (page["object"], page["first_id"], page["last_id"]) == ("list", ids[0], ids[-1])
            found += ids
            if not page["has_more"]:
                break
            after = {"after": page["last_id"]}
        assert found == expected
    beyond = client.get("/v1/videos", params={"after": made[0]}).json()
    assert (beyond["data"], beyond["first_id"], beyond["last_id"], beyond["has_more"]) == ([], None, None, False)
    for params in ({"limit": 0}, {"limit": 101}, {"order": "up"}, {"after": "x"}):
        assert refused(client.get("/v1/videos", params=params))[:2] == (422, "invalid_parameter")


def test_a_deleted_video_is_nowhere_any_more(client: TestClient, services: Services) -> None:
    video_id = create(client)["id"]
    assert client.delete(f"/v1/videos/{video_id}").json() == {
        "id": video_id,
        "deleted": True,
        "object": "video.deleted",
    }
    assert services.ledger.task(video_id).status == "canceled"
    assert client.get("/v1/videos").json()["data"] == []
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/content"), ("POST", "/remix")):
        answer = client.request(method, f"/v1/videos/{video_id}{path}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "task_not_found"), path


def test_content_comes_in_parts_and_in_variants(client: TestClient, finished: str) -> None:
    path = f"/v1/videos/{finished}/content"
    whole, part = client.get(path), client.get(path, headers={"Range": "bytes=10-19"})
    assert (whole.content, whole.headers["content-type"]) == (VIDEO, "video/mp4")
    assert (part.status_code, part.content) == (206, VIDEO[10:20])
    assert client.head(path).headers["content-length"] == str(len(VIDEO))
    thumbnail = client.get(path, params={"variant": "thumbnail"})
    assert (thumbnail.content[:2], thumbnail.headers["content-type"]) == (b"\xff\xd8", "image/jpeg")
    assert refused(client.get(path, params={"variant": "spritesheet"}))[1] == "artifact_not_found"  # it was made before
    assert refused(client.get(path, params={"variant": "audio"})) == (422, "invalid_parameter", "variant")


def test_a_remix_is_of_the_same_picture_with_another_seed(client: TestClient, services: Services) -> None:
    first = create(client, seed=7, motion="zoom_in", size="640x360")
    remix = client.post(f"/v1/videos/{first['id']}/remix", json={"prompt": "a dog", "seed": 8}).json()
    assert (remix["remixed_from_video_id"], remix["prompt"], remix["seed"]) == (first["id"], "a dog", 8)
    assert (remix["size"], remix["seconds"], remix["model"]) == ("640x360", first["seconds"], "preview")
    again = client.post(f"/v1/videos/{first['id']}/remix").json()
    assert (again["prompt"], again["remixed_from_video_id"]) == ("a cat", first["id"])
    assert again["seed"] != 7
    tasks = [services.ledger.task(video["id"]) for video in (first, remix)]
    first, second = (services.ledger.inputs(task.task_id)["picture"].sha256 for task in tasks)
    assert first == second
    assert tasks[1].params["motion"] == "zoom_in"


def test_an_edit_is_a_remix_and_takes_no_upload(client: TestClient) -> None:
    first = create(client)["id"]
    by_id = client.post("/v1/videos/edits", files={"video[id]": (None, first), "prompt": (None, "a dog")})
    assert by_id.json()["remixed_from_video_id"] == first
    assert client.post("/v1/videos/edits", json={"video": {"id": first}}).json()["remixed_from_video_id"] == first
    assert client.post("/v1/videos/edits", files={"video": first.encode()}).json()["remixed_from_video_id"] == first
    uploaded = client.post("/v1/videos/edits", files={"video": VIDEO}, data={"prompt": "a dog"})
    assert refused(uploaded) == (422, "invalid_parameter", "video")
    assert "its own videos only" in uploaded.json()["error"]["message"]
    assert refused(client.post("/v1/videos/edits", json={})) == (422, "invalid_parameter", "video[id]")
    assert refused(client.post("/v1/videos/edits", json={"video": {"id": "x"}}))[:2] == (404, "task_not_found")


def test_an_extension_tells_the_length_of_the_whole(client: TestClient, services: Services) -> None:
    first = create(client, seconds="4")["id"]
    early = client.post("/v1/videos/extensions", json={"video": {"id": first}, "seconds": "4"})
    assert (early.status_code, early.json()["error"]["code"]) == (409, "not_ready")
    _, (step,) = services.ledger.task_with_steps(first)
    taken = services.ledger.claim(step.step_id, "w1", 60)
    assert taken is not None
    services.storage.put("tasks/made", VIDEO)
    services.ledger.finish(taken, artifacts_at(video="tasks/made"), {"output_sha256": "0" * 64}, {})
    longer = client.post("/v1/videos/extensions", json={"video": {"id": first}, "seconds": "4", "prompt": "on"}).json()
    assert (longer["extended_from_video_id"], longer["seconds"], longer["prompt"]) == (first, "8", "on")
    _, steps = services.ledger.task_with_steps(longer["id"])
    assert [step.kind for step in steps] == ["clip", "join"]


@pytest.mark.parametrize(
    ("parameters", "asked", "seconds", "warning"),
    [
        ({"model": "svd-xt"}, "20", "23.57", None),
        ({"model": "preview", "width": 1920, "height": 1920, "fps": 30}, "4", "4", "3.17 s instead of 4"),
    ],
)
def test_openais_lengths_extend_any_video(
    client: TestClient, services: Services, parameters: dict[str, Any], asked: str, seconds: str, warning: str | None
) -> None:
    """By as much as the engine can, since its clients know no others."""
    first = create(client, **parameters)["id"]
    _, (step,) = services.ledger.task_with_steps(first)
    taken = services.ledger.claim(step.step_id, "w1", 60)
    assert taken is not None
    services.storage.put("tasks/made", VIDEO)
    services.ledger.finish(taken, artifacts_at(video="tasks/made"), {"output_sha256": "0" * 64}, {})
    longer = client.post("/v1/videos/extensions", json={"video": {"id": first}, "seconds": asked}).json()
    assert longer["seconds"] == seconds
    shortened = [said for said in longer["warnings"] if "instead of" in said]
    assert [warning in said for said in shortened] == [True] if warning else not shortened
    other = client.post("/v1/videos/extensions", json={"video": {"id": first}, "seconds": "21"})
    assert refused(other) == (422, "invalid_parameter", "seconds")


def test_a_request_sent_twice_makes_one_video(client: TestClient) -> None:
    key = {"Idempotency-Key": "k"}
    made = [client.post("/v1/videos", files={"input_reference": CAT}, headers=key).json()["id"] for _ in range(2)]
    assert made[0] == made[1]


def test_the_models_are_the_engines_that_can_run_here(client: TestClient, services: Services) -> None:
    services.ledger.report_worker(worker_that_says("gpu", "cuda:0", "svd-xt", "no weights"))
    services.ledger.report_worker(worker_that_says("cpu", "cpu", "preview", None))
    preview = {"id": "preview", "object": "model", "created": 0, "owned_by": "kinora"}
    assert client.get("/v1/models").json() == {"object": "list", "data": [preview]}
    assert client.get("/v1/models/preview").json() == preview
    for model in ("svd-xt", "gpt-4"):
        assert refused(client.get(f"/v1/models/{model}")) == (404, "model_not_found", "model")


def waiting_for(client: TestClient, **kwargs: Any) -> tuple[threading.Thread, list[Any]]:
    """A request to /v1/videos/sync under way."""
    answers: list[Any] = []

    def ask() -> None:
        answers.append(client.post("/v1/videos/sync", files={"input_reference": CAT}, **kwargs))

    thread = threading.Thread(target=ask)
    thread.start()
    wait_until(lambda: client.get("/v1/videos").json()["data"], 10, "the task")
    return thread, answers


def only_task(client: TestClient) -> str:
    (video,) = client.get("/v1/videos").json()["data"]
    return str(video["id"])


def test_sync_answers_with_the_video(client: TestClient, services: Services, claim: Callable[[str], Claim]) -> None:
    thread, answers = waiting_for(client, headers={"X-Request-ID": "mine"})
    taken = claim(only_task(client))
    services.storage.put("tasks/made", VIDEO)
    services.ledger.finish(taken, artifacts_at(video="tasks/made"), {}, {})
    thread.join()
    (answer,) = answers
    assert (answer.status_code, answer.content, answer.headers["content-type"]) == (200, VIDEO, "video/mp4")
    assert (answer.headers["X-Request-ID"], float(answer.headers["X-Inference-Time-S"]) >= 0) == ("mine", True)
    assert taken.task.task_id in answer.headers["content-disposition"]


def test_sync_tells_what_the_task_ended_with(
    client: TestClient, services: Services, claim: Callable[[str], Claim]
) -> None:
    thread, answers = waiting_for(client)
    services.ledger.fail(claim(only_task(client)), ErrorInfo("gpu_out_of_memory", "too big"))
    thread.join()
    assert refused(answers[0])[:2] == (410, "gpu_out_of_memory")


def test_only_so_many_wait(client: TestClient, services: Services) -> None:
    room = ConcurrencyLimit(1, "as many wait as may")
    client.app.state.services = replace(services, waiting=room)
    thread, answers = waiting_for(client)
    assert refused(client.post("/v1/videos/sync", files={"input_reference": CAT}))[:2] == (429, "queue_full")
    asked = {"version": "preview", "input": {"image": JSON_CAT}}
    at_once = client.post("/v1/predictions", json=asked, headers={"Prefer": "wait"})
    assert (at_once.status_code, at_once.json()["status"]) == (201, "starting")
    for video in client.get("/v1/videos").json()["data"]:
        client.post(f"/cancel/{video['id']}")
    thread.join()
    assert (answers[0].status_code, room.free) == (410, 1)


def test_sync_names_the_task_that_takes_too_long(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_content, "SYNC_SECONDS", 0.0)
    answer = client.post("/v1/videos/sync", files={"input_reference": CAT})
    assert refused(answer)[:2] == (409, "not_ready")
    assert only_task(client) in answer.json()["error"]["message"]


def test_a_video_expires_so_long_after_it_was_made(client: TestClient, services: Services, finished: str) -> None:
    with services.ledger.database.begin() as tx:  # it waited for a while
        tx.exec_driver_sql("UPDATE tasks SET created_at = created_at - 1000")
    found = client.get(f"/v1/videos/{finished}").json()
    assert found["expires_at"] == found["completed_at"] + int(services.settings.result_ttl)
    assert found["completed_at"] - found["created_at"] >= 999
