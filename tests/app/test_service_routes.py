"""/engines, /health, /metrics, /docs and the shape of errors."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from app.main import create_app
from app.services import Services
from core.config.settings import Settings
from core.ledger.workers import Worker
from core.process.machine import machine_id
from core.queue import StepQueue
from core.task import Claim, NewStep
from harness.pictures import CAT
from harness.servers import free_port
from harness.stack import ROOT
from tests.app.conftest import upload, worker_that_says
from tests.conftest import new_task


def test_engines_are_listed_with_limits_defaults_and_licence(client: TestClient) -> None:
    body = client.get("/engines").json()
    assert body["default"] == "preview"
    by_name = {engine["name"]: engine for engine in body["engines"]}
    assert list(by_name) == ["svd-xt", "svd", "turbo", "preview"]
    svd = by_name["svd-xt"]
    assert svd["limits"]["width"] == {"type": "integer", "minimum": 64, "maximum": 1024, "multiple_of": 64}
    assert svd["limits"]["noise_aug_strength"] == {"type": "number", "minimum": 0, "maximum": 1}
    assert svd["limits"]["fit"] == {"choices": ["cover", "contain", "stretch"]}
    assert svd["defaults"]["num_frames"] == 25
    assert svd["licence"]
    assert re.fullmatch("[0-9a-f]{40}", svd["revision"])
    assert (svd["unet"], by_name["turbo"]["unet"]["model"]) == (None, "wangfuyun/AnimateLCM-SVD-xt")


def test_an_engine_without_a_worker_says_so(client: TestClient, services: Services) -> None:
    services.ledger.report_worker(worker_that_says("cpu", "cpu", "preview", None))
    services.ledger.report_worker(worker_that_says("gpu", "none", "svd-xt", "there are no weights"))
    found = {
        engine["name"]: (engine["available"], engine["reason"]) for engine in client.get("/engines").json()["engines"]
    }
    assert found["preview"] == (True, None)
    assert found["svd-xt"] == (False, "there are no weights")
    assert found["svd"] == (False, "no worker on the queue gpu has reported")


def test_health_is_200_when_everything_is_there(client: TestClient, services: Services) -> None:
    worker = worker_that_says("cpu", "cpu", "preview", None)
    services.ledger.report_worker(replace(worker, machine=machine_id()))
    response = client.get("/health")
    assert response.status_code == 200
    body = response.json()
    assert body["status"] == "ok"
    assert body["stores"] == {"ledger": "ok", "storage": "ok", "redis": "ok"}
    assert body["queues"]["cpu"]["workers"][0]["engines"]["preview"]["ready"]


def test_health_is_degraded_without_a_worker(client: TestClient, services: Services) -> None:
    response = client.get("/health")
    assert (response.status_code, response.json()["status"]) == (503, "degraded")
    assert response.json()["problems"] == ["no live worker is ready for the engine preview"]


def test_health_is_degraded_without_a_keeper(client: TestClient) -> None:
    problems = client.get("/health").json()["problems"]
    assert any(problem.startswith("no keeper is alive") for problem in problems)


def test_health_says_that_redis_is_away(client: TestClient, services: Services) -> None:
    away = StepQueue(services.settings.model_copy(update={"redis_port": free_port()}))
    client.app.state.services = replace(services, queue=away)
    body = client.get("/health").json()
    assert body["status"] == "degraded"
    assert "does not answer" in body["stores"]["redis"]
    away.close()


def test_health_names_a_key_in_redis_that_somebody_else_wrote(client: TestClient, services: Services) -> None:
    report = replace(worker_that_says("cpu", "cpu", "preview", None), machine=machine_id())
    services.ledger.report_worker(report)
    services.queue.redis.set("rq:queue:cpu", "no list")
    response = client.get("/health")
    assert (response.status_code, response.json()["status"]) == (503, "degraded")
    assert response.json()["stores"]["redis"] == "ok"
    said = "redis_key_wrong: rq:queue:cpu: it is a string and not a list; the keeper deletes it"
    assert response.json()["problems"] == [said]
    services.queue.delete_wrong_keys()
    assert client.get("/health").json()["status"] == "ok"


def test_health_warns_of_sqlite_under_workers_on_two_machines(client: TestClient, services: Services) -> None:
    services.ledger.report_worker(worker_that_says("cpu", "cpu", "preview", None))
    assert any("SQLite" in problem for problem in client.get("/health").json()["problems"])


def test_live_answers_whatever_else_is_wrong(client: TestClient, services: Services) -> None:
    break_the_ledger(services)
    assert client.get("/health").json()["status"] == "down"
    assert client.get("/health/live").json() == {"status": "ok"}


def samples(client: TestClient) -> dict[str, float]:
    text = client.get("/metrics").text
    return {
        f"{sample.name}{sorted(sample.labels.values())}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_count_tasks_by_engine(client: TestClient, finished: str) -> None:
    client.post(f"/cancel/{upload(client)}")
    upload(client)
    found = samples(client)
    assert found["kinora_tasks_created_total['preview']"] == 3
    assert found["kinora_tasks_finished_total['preview']"] == 1
    assert found["kinora_tasks_canceled_total['preview']"] == 1
    assert found["kinora_queue_depth['cpu']"] == 1
    assert found["kinora_queue_oldest_seconds['cpu']"] > 0
    assert found["kinora_workers['gpu']"] == 0
    assert found["kinora_phase_seconds_sum['preview', 'render']"] == 1.0
    assert found["kinora_phase_seconds_bucket['+Inf', 'preview', 'render']"] == 1
    assert found["kinora_phase_seconds_bucket['0.5', 'preview', 'render']"] == 0
    assert found["kinora_task_waiting_seconds_count['preview']"] == 1
    assert found["kinora_store_up['ledger']"] == 1


def test_metrics_are_right_after_a_restart_and_from_every_process(
    client: TestClient, settings: Settings, claim: Callable[[str], Claim]
) -> None:
    claim(upload(client))
    with TestClient(create_app(settings)) as another:
        assert samples(another)["kinora_tasks_created_total['preview']"] == 1


def test_requests_are_counted_by_route_and_not_by_path(client: TestClient) -> None:
    for number in range(3):
        client.get(f"/status/{number}")
    client.get("/wp-login.php")
    found = samples(client)
    assert found["kinora_http_requests_total['/status/{task_id}', '404', 'GET']"] == 3
    assert found["kinora_http_requests_total['404', 'none', 'none']"] == 1


def test_the_docs_page_loads_nothing_from_other_hosts(client: TestClient) -> None:
    page = client.get("/docs").text
    assert "http" not in re.sub(r"http-equiv", "", page).replace("http://www.w3.org", "")
    for path in re.findall(r'(?:src|href)="(/[^"]+)"', page):
        assert client.get(path).status_code == 200


def test_every_route_documents_its_errors_in_our_shape(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert "HTTPValidationError" not in str(document)
    for path, methods in document["paths"].items():
        for operation in methods.values():
            for status, response in operation["responses"].items():
                if status.startswith(("4", "5")) and path != "/health":
                    assert response["content"]["application/json"]["schema"] == {
                        "$ref": "#/components/schemas/ErrorBody"
                    }


@pytest.mark.parametrize(
    ("method", "path", "code"), [("GET", "/nope", "not_found"), ("PUT", "/tasks", "method_not_allowed")]
)
def test_what_no_route_answers_has_the_same_shape(client: TestClient, method: str, path: str, code: str) -> None:
    error = client.request(method, path).json()["error"]
    assert set(error) == {"code", "message", "type", "param"}
    assert error["code"] == code


def test_an_unexpected_error_tells_the_caller_nothing(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr("core.ledger.reads.Reader.task_with_steps", broken)
    response = client.get("/status/x")
    assert (response.status_code, response.json()["error"]["code"]) == (500, "internal_error")
    assert "secret" not in response.text


def break_the_ledger(services: Services) -> None:
    services.ledger.close()
    (services.settings.data_dir / "kinora.db").unlink()
    (services.settings.data_dir / "kinora.db").mkdir()


def test_with_the_storage_away_nothing_is_promised(client: TestClient, services: Services) -> None:
    storage = services.settings.data_dir / "storage"
    shutil.rmtree(storage)
    storage.touch()
    response = client.post("/generate", files={"file": CAT})
    assert (response.status_code, response.json()["error"]["code"]) == (503, "storage_unavailable")
    assert int(response.headers["retry-after"]) > 0
    assert client.get("/tasks").json()["tasks"] == []
    assert client.get("/health").json()["status"] == "down"


def test_with_the_ledger_away_callers_are_told_to_come_back(client: TestClient, services: Services) -> None:
    break_the_ledger(services)
    response = client.get(f"/status/{'0' * 32}")
    assert (response.status_code, response.json()["error"]["code"]) == (503, "ledger_unavailable")
    assert int(response.headers["retry-after"]) > 0
    assert client.get("/health").json()["status"] == "down"
    assert "kinora_store_up" in client.get("/metrics").text


def test_what_a_worker_works_on_is_for_an_admin(client: TestClient, services: Services) -> None:
    services.ledger.report_worker(replace(worker_that_says("cpu", "cpu", "preview", None), step_id="1" * 32))
    told = {}
    for name in ("ann", "root"):
        headers = {"X-API-Key": services.ledger.keys.create(name, admin=name == "root")[1]}
        (worker,) = client.get("/health", headers=headers).json()["queues"]["cpu"]["workers"]
        told[name] = worker["step_id"]
    assert told == {"ann": None, "root": "1" * 32}


def test_a_worker_that_has_no_engine_is_seen_by_health_and_metrics(client: TestClient, services: Services) -> None:
    services.ledger.report_worker(Worker("w", "net", "h", "m", 1, "none", {}, None, None, 0.0, 0.0, alive=True))
    services.ledger.create(new_task(steps=[NewStep("hosted", "net")]))
    net = client.get("/health").json()["queues"]["net"]
    assert (net["waiting"], [worker["worker_id"] for worker in net["workers"]]) == (1, ["w"])
    metrics = client.get("/metrics").text
    assert 'kinora_queue_depth{queue="net"} 1.0' in metrics
    assert 'kinora_workers{queue="net"} 1.0' in metrics


def test_the_dashboard_has_a_line_for_each_lane(client: TestClient, services: Services) -> None:
    for queue in ("gpu", "cpu", "net"):
        services.ledger.report_worker(replace(worker_that_says(queue, "cpu", "preview", None), worker_id=queue))
        services.ledger.create(new_task(steps=[NewStep("clip", queue)]))
    board = json.loads((ROOT / "deploy/grafana/dashboards/kinora.json").read_text())
    targets = [target for panel in board["panels"] for target in panel.get("targets", [])]
    of_each_queue = {target["expr"] for target in targets if "{{queue}}" in target["legendFormat"]}
    assert of_each_queue == {"kinora_queue_depth", "kinora_queue_oldest_seconds", "kinora_workers"}
    metrics = client.get("/metrics").text
    for name in of_each_queue:
        assert sorted(re.findall(rf'^{name}{{queue="(\w+)"}}', metrics, re.MULTILINE)) == ["cpu", "gpu", "net"]


def test_steps_that_no_live_worker_does_are_a_problem_that_makes_nothing_else_wait(
    client: TestClient, services: Services
) -> None:
    services.ledger.report_worker(replace(worker_that_says("cpu", "cpu", "preview", None), machine=machine_id()))
    services.ledger.create(new_task(steps=[NewStep("hosted", "net")]))
    body = client.get("/health").json()
    assert (body["status"], body["problems"]) == ("ok", ["1 waits in the queue net, and no live worker does its steps"])
