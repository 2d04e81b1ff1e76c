import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.intake.limits import limits
from app.main import create_app
from app.services import Services
from core.config.settings import Settings
from core.db.tables import now, tasks
from core.errors import LedgerUnavailable
from core.ids import new_id
from core.queue import StepQueue
from core.storage import input_key
from core.task import Claim
from harness.pictures import CAT, png
from harness.servers import free_port
from sandbox.decoder import Decoder
from tests.app.conftest import upload, worker_that_says


def refusal(client: TestClient, data: bytes | None = CAT, **fields: object) -> tuple[int, dict[str, str]]:
    response = client.post("/generate", files=data and {"file": data}, data=fields or {"fps": "7"})
    return response.status_code, response.json()["error"]


def test_an_upload_is_answered_with_a_task_id_and_where_to_look(client: TestClient) -> None:
    response = client.post("/generate", files={"file": CAT})
    assert response.status_code == 202
    body = response.json()
    assert body == {
        "task_id": body["task_id"],
        "status": "queued",
        "queue_position": 1,
        "eta_seconds": None,
        "status_url": f"http://testserver/status/{body['task_id']}",
        "result_url": f"http://testserver/results/{body['task_id']}",
    }


def test_an_accepted_picture_is_in_the_storage_and_its_step_is_rung_for(client: TestClient, services: Services) -> None:
    task_id = upload(client)
    task, (step,) = services.ledger.task_with_steps(task_id)
    assert services.storage.read(input_key(task.task_id, "picture"))[:3] == b"\xff\xd8\xff"
    source = services.ledger.inputs(task.task_id)["picture"]
    assert source.sha256 == hashlib.sha256(CAT).hexdigest(), "of what was sent, not of what is stored"
    assert source.media_type == "image/jpeg"
    assert services.queue.queued_ids("cpu") == {step.step_id}


def test_the_field_may_be_called_image_too(client: TestClient) -> None:
    assert client.post("/generate", files={"image": CAT}).status_code == 202


def test_two_pictures_at_once_are_refused(client: TestClient) -> None:
    response = client.post("/generate", files={"image": CAT, "file": CAT})
    assert response.json()["error"]["code"] == "invalid_parameter"


def test_every_parameter_is_kept_on_the_task(client: TestClient) -> None:
    given = {"width": 512, "height": 320, "num_frames": 10, "fps": 12, "seed": 5, "motion": "orbit", "fit": "contain"}
    params = client.get(f"/status/{upload(client, **given, quality=30)}").json()["params"]
    assert params == given | {"quality": 30, "engine": "preview"}


def test_a_prompt_is_kept_and_said_to_be_unused(client: TestClient) -> None:
    body = client.get(f"/status/{upload(client, prompt='a cat blinks')}").json()
    assert body["params"]["prompt"] == "a cat blinks"
    assert body["warnings"] == ["prompt is not used by the engine preview"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("width", "9999"),
        ("width", "65"),
        ("width", "many"),
        ("fps", "0"),
        ("num_frames", "1"),
        ("quality", "52"),
        ("seed", "-1"),
        ("fit", "squash"),
        ("motion", "moonwalk"),
        ("engine", "sora"),
        ("widht", "64"),
    ],
)
def test_a_wrong_value_is_a_422_that_names_the_field(client: TestClient, field: str, value: str) -> None:
    status, error = refusal(client, **{field: value})
    assert status == 422
    assert error["code"] == "invalid_parameter"
    assert error["param"] == field
    assert error["type"] == "invalid_request_error"
    assert field in error["message"]


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "1.5"])
def test_a_float_that_is_no_amount_of_noise_is_refused(client: TestClient, value: str) -> None:
    status, error = refusal(client, engine="svd-xt", noise_aug_strength=value)
    assert (status, error["param"]) == (422, "noise_aug_strength")


def test_a_missing_or_empty_file_is_said(client: TestClient) -> None:
    assert refusal(client, None)[1]["code"] == "file_missing"
    assert refusal(client, b"")[1]["code"] == "file_missing"


def test_what_is_no_picture_is_refused(client: TestClient) -> None:
    status, error = refusal(client, b"ffconcat version 1.0\nfile /etc/passwd\n")
    assert (status, error["code"], error["param"]) == (415, "image_unsupported", "file")


def test_a_truncated_picture_is_refused(client: TestClient) -> None:
    assert refusal(client, CAT[: len(CAT) // 2])[1]["code"] == "image_unreadable"


def test_a_picture_too_large_is_refused_before_it_is_decoded(client: TestClient) -> None:
    assert refusal(client, png(12_000, 12_000))[1]["code"] == "image_too_large"
    assert refusal(client, png(4, 4))[1]["code"] == "image_too_small"


def test_an_upload_too_large_is_refused(client: TestClient) -> None:
    status, error = refusal(client, CAT + bytes(20_000_001))
    assert (status, error["code"]) == (413, "upload_too_large")


def test_a_chunked_upload_too_large_is_refused_while_it_comes_in(client: TestClient) -> None:
    sent = 0

    def endless():
        nonlocal sent
        while sent < 100_000_000:
            sent += 1_000_000
            yield bytes(1_000_000)

    response = client.post("/generate", content=endless(), headers={"content-type": "multipart/form-data; boundary=x"})
    assert (response.status_code, response.json()["error"]["code"]) == (413, "upload_too_large")


def test_with_redis_away_a_task_is_accepted_all_the_same(client: TestClient, services: Services) -> None:
    away = StepQueue(services.settings.model_copy(update={"redis_port": free_port()}))
    client.app.state.services = replace(services, queue=away)
    assert client.get(f"/status/{upload(client)}").json()["status"] == "queued"
    away.close()


def test_a_task_that_is_recorded_is_accepted_though_the_ledger_is_away_a_moment_later(
    client: TestClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise LedgerUnavailable("away")

    monkeypatch.setattr(services.ledger, "task_with_steps", away)
    response = client.post("/generate", files={"file": CAT})
    assert (response.status_code, response.json()["eta_seconds"]) == (202, None)


def test_auto_takes_the_gpu_engine_where_a_worker_has_cuda(client: TestClient, services: Services) -> None:
    services.ledger.report_worker(worker_that_says("gpu", "cuda: H200", "svd-xt", None))
    assert client.get(f"/status/{upload(client)}").json()["engine"] == "svd-xt"


def test_auto_never_takes_turbo(client: TestClient, services: Services) -> None:
    services.ledger.report_worker(worker_that_says("gpu", "cuda: H200", "turbo", None))
    assert client.get(f"/status/{upload(client)}").json()["engine"] == "svd-xt"


def test_auto_takes_the_preview_where_there_is_no_gpu(client: TestClient, services: Services) -> None:
    services.ledger.report_worker(worker_that_says("gpu", "cpu", "svd-xt", None))
    assert client.get(f"/status/{upload(client)}").json()["engine"] == "preview"


def test_an_engine_that_cannot_run_here_says_why(client: TestClient, services: Services) -> None:
    services.ledger.report_worker(worker_that_says("gpu", "none", "svd-xt", "torch is not installed"))
    status, error = refusal(client, engine="svd-xt")
    assert (status, error["code"]) == (503, "engine_unavailable")
    assert "torch is not installed" in error["message"]


def test_a_task_for_an_engine_that_still_loads_is_accepted(client: TestClient, services: Services) -> None:
    services.ledger.report_worker(worker_that_says("gpu", "none", "svd-xt", None, loading=True))
    task = client.get(f"/status/{upload(client, engine='svd-xt')}").json()
    assert (task["status"], task["engine"]) == ("queued", "svd-xt")


@pytest.mark.parametrize(
    ("workers", "queue"),
    [(["gpu"], "gpu"), (["gpu", "cpu"], "cpu"), ([], "gpu")],
    ids=["beside the next clip where only a GPU's worker is", "without a GPU where one is", "where nobody is yet"],
)
def test_motion_is_smoothed_by_whom_it_costs_least(
    client: TestClient, services: Services, workers: list[str], queue: str
) -> None:
    for name in workers:
        services.ledger.report_worker(worker_that_says(name, name, {"gpu": "svd-xt", "cpu": "preview"}[name], None))
    task, (clip, smooth) = services.ledger.task_with_steps(upload(client, engine="svd-xt", smooth_fps=30))
    assert (clip.kind, clip.queue, smooth.kind, smooth.queue) == ("clip", "gpu", "smooth", queue)
    assert task.params["smooth_fps"] == 30
    assert smooth.waits_for == 1
    assert (smooth.size, 0 < smooth.work < clip.work) == ("1024x576x25 to 103", True)


def test_with_rife_motion_is_smoothed_where_the_engine_runs(settings: Settings) -> None:
    with TestClient(create_app(settings.model_copy(update={"rife_weights": Path("flownet.pkl")}))) as client:
        services = client.app.state.services
        services.ledger.report_worker(worker_that_says("cpu", "cpu", "preview", None))
        _, (_, smooth) = services.ledger.task_with_steps(upload(client, engine="svd-xt", smooth_fps=30))
        assert smooth.queue == "gpu"


def test_who_asks_for_no_smooth_motion_gets_one_step_as_before(client: TestClient, services: Services) -> None:
    task, (clip,) = services.ledger.task_with_steps(upload(client, engine="svd-xt"))
    assert (clip.kind, "smooth_fps" in task.params) == ("clip", False)


def repeat(client: TestClient, key: str, data: bytes = CAT, **fields: object):
    return client.post("/generate", files={"file": data}, data=fields, headers={"Idempotency-Key": key})


def test_a_request_sent_again_gives_the_task_it_made_first(client: TestClient, services: Services) -> None:
    first = repeat(client, "k1", fps=9)
    again = repeat(client, "k1", fps=9)
    assert first.status_code == again.status_code == 202
    assert first.json() == again.json()
    assert list(services.storage.task_ids()) == [first.json()["task_id"]]
    assert repeat(client, "k2", fps=9).json() != first.json()


def test_a_request_sent_again_costs_no_decoding(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    first = repeat(client, "k").json()
    monkeypatch.setattr(Decoder, "decoding", None)
    assert repeat(client, "k").json() == first
    assert repeat(client, "k", fps=9).json()["error"]["code"] == "idempotency_mismatch"


def test_twenty_at_once_make_one_task(client: TestClient) -> None:
    with ThreadPoolExecutor(20) as pool:
        made = {response.json()["task_id"] for response in pool.map(lambda _: repeat(client, "k"), range(20))}
    assert len(made) == 1
    assert len(client.get("/tasks").json()["tasks"]) == 1


def test_a_key_holds_after_a_restart(client: TestClient, settings: Settings) -> None:
    first = repeat(client, "k").json()
    with TestClient(create_app(settings)) as restarted:
        assert repeat(restarted, "k").json() == first


@pytest.mark.parametrize("other", [{"fps": 9}, {"data": png(64, 64)}])
def test_a_key_used_for_another_request_is_refused(
    client: TestClient, services: Services, other: dict[str, Any]
) -> None:
    repeat(client, "k", fps=8)
    response = repeat(client, "k", **other)
    assert (response.status_code, response.json()["error"]["code"]) == (422, "idempotency_mismatch")
    assert len(client.get("/tasks").json()["tasks"]) == 1
    assert len(list(services.storage.task_ids())) == 1, "what was refused leaves nothing behind"


def test_a_key_too_long_is_refused(client: TestClient) -> None:
    assert repeat(client, "k" * 256).json()["error"]["code"] == "invalid_parameter"


def bounded(client: TestClient, services: Services, **settings: int) -> None:
    changed = services.settings.model_copy(update=settings)
    client.app.state.services = replace(services, settings=changed)


@pytest.mark.parametrize("bound", ["max_waiting", "max_waiting_per_queue"])
def test_more_tasks_than_may_wait_are_told_to_come_back(client: TestClient, services: Services, bound: str) -> None:
    bounded(client, services, **{bound: 2})
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.post("/generate", files={"file": CAT}), range(8)))
    assert sorted(answer.status_code for answer in answers) == [202] * 2 + [429] * 6
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.json()["error"]["code"] == "queue_full"
    assert int(refused.headers["retry-after"]) >= 1
    assert len(list(services.storage.task_ids())) == 2, "what was refused leaves nothing behind"


def test_no_picture_is_waited_for_while_the_queue_is_full(
    client: TestClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounded(client, services, max_waiting=1)
    upload(client)
    monkeypatch.setattr("sandbox.decoder.read_answer", None)
    refused = client.post("/generate", files={"file": CAT})
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")


def test_twenty_at_once_make_one_task_though_only_one_may_wait(client: TestClient, services: Services) -> None:
    bounded(client, services, max_waiting=1)
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: repeat(client, "k"), range(20)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["task_id"] for answer in answers}) == 1


def test_whoever_is_told_to_come_back_is_told_when_by_what_was_measured(
    client: TestClient, services: Services, claim: Callable[[str], Claim]
) -> None:
    for name in ("w1", "w2"):
        services.ledger.report_worker(replace(worker_that_says("cpu", "cpu", "preview", None), worker_id=name))
    taken = claim(upload(client))
    services.ledger.finish(replace(taken, started_at=taken.started_at - 39.5), {}, {}, {})
    bounded(client, services, max_waiting=1)
    upload(client)
    assert client.post("/generate", files={"file": CAT}).headers["retry-after"] == "20", "40 s, two workers"


def test_where_nothing_is_kept_on_this_machine_its_disk_is_not_asked(
    client: TestClient, services: Services, tmp_path: Path
) -> None:
    """With PostgreSQL and an object store there need be no DATA_DIR."""
    bounded(client, services, data_dir=tmp_path / "none")
    assert client.post("/generate", files={"file": CAT}).status_code == 202


def test_an_upload_is_refused_while_the_disk_is_nearly_full(client: TestClient, services: Services) -> None:
    bounded(client, services, min_free_disk_mb=10**9)
    status, error = refusal(client)
    assert (status, error["code"]) == (507, "storage_full")
    assert list(services.storage.task_ids()) == []


def test_a_key_that_makes_and_cancels_tasks_is_stopped_as_it_comes(settings: Settings, shared_decoder: Decoder) -> None:
    """The thousandth task of an hour is made, whatever became of the others."""
    with TestClient(create_app(settings.model_copy(update={"auth": "keys"}), shared_decoder)) as client:
        ledger = client.app.state.services.ledger
        key, text = ledger.keys.create("ann")
        client.headers["Authorization"] = f"Bearer {text}"
        with ledger.database.begin() as tx:
            row = {"owner": key.key_id, "status": "canceled", "engine": "preview", "params": {}, "warnings": []}
            tx.execute(tasks.insert().values(created_at=now()), [row | {"task_id": new_id()} for _ in range(999)])
        upload(client)
        refused = client.post("/generate", files={"file": CAT})
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "quota_exceeded")
    assert "1000 tasks an hour" in refused.json()["error"]["message"]
    assert 3500 < int(refused.headers["Retry-After"]) <= 3600


def test_a_megabyte_has_a_million_bytes(settings: Settings) -> None:
    _, quota = limits(settings.model_copy(update={"max_stored_mb_per_key": 3}))
    assert quota.stored_bytes == 3_000_000
