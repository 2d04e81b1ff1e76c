import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from fastapi.testclient import TestClient

from app.services import Services
from core.task import Claim, ErrorInfo
from harness.pictures import CAT
from tests.app.conftest import upload, worker_that_says


def test_a_queued_task_says_its_place(client: TestClient) -> None:
    first, second = upload(client), upload(client)
    assert client.get(f"/status/{first}").json()["queue_position"] == 1
    body = client.get(f"/status/{second}").json()
    assert (body["status"], body["progress"], body["queue_position"], body["step"]) == ("queued", 0, 2, None)


def test_a_running_task_says_its_phase_and_progress(
    client: TestClient, services: Services, claim: Callable[[str], Claim]
) -> None:
    taken = claim(upload(client))
    services.ledger.renew(taken, 60, progress=42, phase="denoise")
    body = client.get(f"/status/{taken.task.task_id}").json()
    assert (body["status"], body["progress"], body["queue_position"]) == ("started", 42, None)
    assert body["step"] == {"verb": "clip", "phase": "denoise", "number": 1, "of": 1, "attempt": 1}


def test_a_receipt_has_the_prompt_that_only_the_task_keeps(
    client: TestClient, services: Services, claim: Callable[[str], Claim]
) -> None:
    task_id = upload(client, prompt="a cat")
    services.ledger.finish(claim(task_id), [], {"parameters": {"seed": 1}}, {})
    receipt = client.get(f"/status/{task_id}").json()["receipt"]
    assert receipt == {"parameters": {"seed": 1, "prompt": "a cat"}}


def test_a_finished_task_has_a_receipt_and_its_times(client: TestClient, finished: str) -> None:
    body = client.get(f"/status/{finished}").json()
    assert (body["status"], body["progress"], body["error"]) == ("finished", 100, None)
    assert body["receipt"] == {"seed": 1}
    assert body["created_at"] <= body["started_at"] <= body["finished_at"]
    assert body["created_at"].endswith("Z")


def test_a_failed_task_says_why(client: TestClient, services: Services, claim: Callable[[str], Claim]) -> None:
    taken = claim(upload(client))
    services.ledger.fail(taken, ErrorInfo("gpu_out_of_memory", "too big"))
    body = client.get(f"/status/{taken.task.task_id}").json()
    assert body["status"] == "failed"
    assert body["error"] == {"code": "gpu_out_of_memory", "message": "too big"}


@pytest.fixture
def measured(services: Services, claim: Callable[[str], Claim], client: TestClient) -> None:
    """A live worker, a clip of 25 frames that took 1000 s, and one of 50 frames that took 1800 s: so long that how slow
    the machine of the tests is says nothing."""
    services.ledger.report_worker(worker_that_says("cpu", "cpu", "preview", None))
    for frames, seconds in ((25, 1000.0), (50, 1800.0)):
        taken = claim(upload(client, num_frames=frames))
        services.ledger.finish(replace(taken, started_at=taken.started_at - seconds), {}, {}, {})


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize(("frames", "seconds"), [(25, 1000), (50, 1800), (100, 3400)])
def test_the_eta_comes_from_what_was_measured_of_this_size(client: TestClient, frames: int, seconds: float) -> None:
    accepted = client.post("/generate", files={"file": CAT}, data={"num_frames": frames}).json()
    assert accepted["queue_position"] == 1
    assert accepted["eta_seconds"] == pytest.approx(seconds, rel=0.02)


@pytest.mark.usefixtures("measured")
def test_the_eta_counts_what_runs_what_waits_and_who_works(
    client: TestClient, services: Services, claim: Callable[[str], Claim]
) -> None:
    claim(upload(client, num_frames=50))
    upload(client, num_frames=25)
    last = upload(client, num_frames=25)
    assert client.get(f"/status/{last}").json()["eta_seconds"] == pytest.approx(1800 + 1000 + 1000, rel=0.02)
    spare = replace(worker_that_says("cpu", "cpu", "preview", "each has a worker already"), worker_id="spare")
    services.ledger.report_worker(spare)
    assert client.get(f"/status/{last}").json()["eta_seconds"] == pytest.approx(1800 + 1000 + 1000, rel=0.02)
    second = replace(worker_that_says("cpu", "cpu", "preview", None), worker_id="w2")
    services.ledger.report_worker(second)
    assert client.get(f"/status/{last}").json()["eta_seconds"] == pytest.approx(1000 + 1000, rel=0.02)


def test_a_clip_waits_for_one_part_of_a_long_one_ahead_and_not_for_all(client: TestClient, services: Services) -> None:
    services.ledger.report_worker(worker_that_says("gpu", "cuda", "svd-xt", None))
    for step in services.ledger.task_with_steps(upload(client, engine="svd-xt"))[1]:
        taken = services.ledger.claim(step.step_id, "w1", 60)
        assert taken is not None
        services.ledger.finish(replace(taken, started_at=taken.started_at - 1000), {}, {}, {})
    _, steps = services.ledger.task_with_steps(upload(client, engine="svd-xt", num_frames=65, fps=30))
    assert [step.kind for step in steps] == ["clip", "clip", "clip", "join"]
    last = upload(client, engine="svd-xt")
    for position in (2, 1):
        body = client.get(f"/status/{last}").json()
        assert body["queue_position"] == position
        assert body["eta_seconds"] == pytest.approx(1000 + 1000, rel=0.02)
        services.ledger.claim(steps[0].step_id, worker_that_says("gpu", "cuda", "svd-xt", None).worker_id, 60)


def test_there_is_no_eta_where_nobody_does_a_later_step(client: TestClient, services: Services) -> None:
    for queue, engine in (("gpu", "svd-xt"), ("cpu", "preview")):
        services.ledger.report_worker(worker_that_says(queue, queue, engine, None))
    smooth = {"engine": "svd-xt", "smooth_fps": 30}
    for step in services.ledger.task_with_steps(upload(client, **smooth))[1]:
        taken = services.ledger.claim(step.step_id, "w1", 60)
        assert taken is not None
        services.ledger.finish(replace(taken, started_at=taken.started_at - 1000), {}, {}, {})
    task_id = upload(client, **smooth)
    assert client.get(f"/status/{task_id}").json()["eta_seconds"]
    services.ledger.sign_off_worker(worker_that_says("cpu", "cpu", "preview", None).worker_id)
    assert client.get(f"/status/{task_id}").json()["eta_seconds"] is None


@pytest.mark.usefixtures("measured")
def test_the_eta_of_a_running_task_goes_down(
    client: TestClient, services: Services, claim: Callable[[str], Claim]
) -> None:
    task_id = claim(upload(client, num_frames=50)).task.task_id
    began = time.monotonic()
    first = client.get(f"/status/{task_id}").json()["eta_seconds"]
    time.sleep(0.5)
    later = client.get(f"/status/{task_id}").json()["eta_seconds"]
    assert 0.4 <= first - later <= time.monotonic() - began + 0.1


def test_with_nothing_measured_there_is_no_eta(client: TestClient) -> None:
    assert client.get(f"/status/{upload(client)}").json()["eta_seconds"] is None


def test_cancel_is_final_and_doing_it_twice_is_no_error(client: TestClient, services: Services) -> None:
    task_id = upload(client)
    for _ in range(2):
        response = client.post(f"/cancel/{task_id}")
        assert (response.status_code, response.json()["status"]) == (200, "canceled")
    assert services.queue.queued_ids("cpu") == set()


def test_canceling_a_finished_task_changes_nothing(client: TestClient, finished: str) -> None:
    assert client.post(f"/cancel/{finished}").json()["status"] == "finished"


def test_tasks_are_listed_newest_first_and_page_by_page(client: TestClient) -> None:
    made = [upload(client) for _ in range(5)]
    first = client.get("/tasks", params={"limit": 3}).json()
    second = client.get("/tasks", params={"limit": 3, "after": first["next_after"]}).json()
    assert [task["task_id"] for task in first["tasks"] + second["tasks"]] == made[::-1]
    assert second["next_after"] is None


def test_tasks_can_be_listed_by_status(client: TestClient, finished: str) -> None:
    upload(client)
    listed = client.get("/tasks", params={"status": "finished"}).json()["tasks"]
    assert [task["task_id"] for task in listed] == [finished]


@pytest.mark.parametrize(("query", "param"), [("status=lost", "status"), ("limit=0", "limit"), ("limit=201", "limit")])
def test_a_wrong_query_names_its_parameter(client: TestClient, query: str, param: str) -> None:
    response = client.get(f"/tasks?{query}")
    assert (response.status_code, response.json()["error"]["param"]) == (422, param)


@pytest.mark.parametrize(("method", "path"), [("GET", "/status/x"), ("POST", "/cancel/x"), ("GET", "/results/x")])
def test_an_unknown_task_is_a_404_with_a_code(client: TestClient, method: str, path: str) -> None:
    response = client.request(method, path)
    assert (response.status_code, response.json()["error"]["code"]) == (404, "task_not_found")


def test_an_expired_task_shows_no_links(client: TestClient, services: Services, finished: str) -> None:
    before = client.get(f"/status/{finished}").json()
    assert None not in (before["result_url"], before["thumbnail_url"])
    services.ledger.mark_expired(finished)
    (listed,) = client.get("/tasks").json()["tasks"]
    for body in (client.get(f"/status/{finished}").json(), listed):
        assert (body["status"], body["result_url"], body["thumbnail_url"]) == ("finished", None, None)
