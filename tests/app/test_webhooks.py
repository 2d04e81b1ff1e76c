from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.services import Services
from harness.pictures import CAT
from tests.app.conftest import upload

URL = "https://example.com/hook"


def register(client: TestClient, **asked: Any) -> dict[str, Any]:
    response = client.post("/webhooks", json={"url": URL} | asked)
    assert response.status_code == 201, response.text
    return dict(response.json())


def deliveries(client: TestClient, **query: Any) -> list[dict[str, Any]]:
    return list(client.get("/webhooks/deliveries", params=query).json()["deliveries"])


def test_an_endpoint_is_registered_listed_and_removed(client: TestClient) -> None:
    made = register(client)
    assert made["events"] == ["task.finished", "task.failed", "task.canceled"]
    assert client.get("/webhooks").json() == {"endpoints": [made]}
    again = register(client, events=["task.started"])
    assert (again["endpoint_id"], again["events"]) == (made["endpoint_id"], ["task.started"])
    assert client.delete(f"/webhooks/{made['endpoint_id']}").status_code == 204
    assert client.get("/webhooks").json() == {"endpoints": []}
    gone = client.delete(f"/webhooks/{made['endpoint_id']}")
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "endpoint_not_found")


def test_the_secret_stays_the_same(client: TestClient) -> None:
    secrets = {client.get("/webhooks/secret").json()["secret"] for _ in range(3)}
    assert len(secrets) == 1
    assert secrets.pop().startswith("whsec_")


def test_a_task_with_a_callback_url_leaves_a_delivery(client: TestClient) -> None:
    task_id = upload(client, callback_url=URL)
    assert deliveries(client) == []
    client.post(f"/cancel/{task_id}")
    (delivery,) = deliveries(client, task_id=task_id)
    assert (delivery["event"], delivery["url"], delivery["status"]) == ("task.canceled", URL, "pending")
    assert delivery["data"]["task_id"] == task_id
    assert deliveries(client, status="dead") == []
    again = client.post(f"/webhooks/{delivery['delivery_id']}/redeliver")
    assert (again.status_code, again.json()["delivery_id"]) == (200, delivery["delivery_id"])


def test_a_callback_tells_what_was_asked_for(client: TestClient, services: Services) -> None:
    task_id = upload(client, callback_url=URL, callback_events=["task.started", "task.canceled"])
    _, (step,) = services.ledger.task_with_steps(task_id)
    services.ledger.claim(step.step_id, "w", 60)
    client.post(f"/cancel/{task_id}")
    assert [found["event"] for found in deliveries(client)] == ["task.canceled", "task.started"]


def test_deliveries_are_listed_page_by_page(client: TestClient) -> None:
    register(client)
    for _ in range(3):
        client.post(f"/cancel/{upload(client)}")
    first = client.get("/webhooks/deliveries", params={"limit": 2}).json()
    rest = client.get("/webhooks/deliveries", params={"limit": 2, "after": first["next_after"]}).json()
    found = [delivery["delivery_id"] for delivery in first["deliveries"] + rest["deliveries"]]
    assert found == sorted(found, reverse=True)
    assert (len(found), rest["next_after"]) == (3, None)


@pytest.mark.parametrize("name", ["0" * 32, "%00", "x"])
def test_what_is_unknown_is_a_404(client: TestClient, name: str) -> None:
    response = client.post(f"/webhooks/{name}/redeliver")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "delivery_not_found")
    response = client.delete(f"/webhooks/{name}")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "endpoint_not_found")


def test_no_more_endpoints_are_registered_than_a_task_can_tell(client: TestClient) -> None:
    for number in range(20):
        register(client, url=f"{URL}/{number}")
    response = client.post("/webhooks", json={"url": f"{URL}/20"})
    assert (response.status_code, response.json()["error"]["param"]) == (422, "url")
    register(client, url=f"{URL}/7", events=["task.started"])  # one that is known may change


@pytest.mark.parametrize(
    "url",
    ["", "example.com/hook", "ftp://example.com/", "https://", "https://a:b@example.com/", "http://[", "http://a:99999/",
     "http://a b/", "http://a/" + 2000 * "x", "http://a/" + 1000 * "é", "file:///etc/passwd"],
)  # fmt: skip
def test_a_url_that_no_callback_may_go_to_is_refused(client: TestClient, url: str) -> None:
    registered = client.post("/webhooks", json={"url": url})
    assert (registered.status_code, registered.json()["error"]["param"]) == (422, "url")
    if url:  # an empty field of a form is one that was left out
        asked = client.post("/generate", files={"file": CAT}, data={"callback_url": url})
        assert (asked.status_code, asked.json()["error"]["param"]) == (422, "callback_url")
    assert client.get("/tasks").json()["tasks"] == []


@pytest.mark.parametrize("events", [[], ["task.exploded"], "task.started"])
def test_events_that_do_not_exist_are_refused(client: TestClient, events: Any) -> None:
    response = client.post("/webhooks", json={"url": URL, "events": events})
    assert (response.status_code, response.json()["error"]["code"]) == (422, "invalid_parameter")


@pytest.mark.parametrize(
    "fields", [{"callback_events": "task.started"}, {"callback_url": URL, "callback_events": "nothing"}]
)
def test_callback_events_must_make_sense(client: TestClient, fields: dict[str, str]) -> None:
    response = client.post("/generate", files={"file": CAT}, data=fields)
    assert (response.status_code, response.json()["error"]["code"]) == (422, "invalid_parameter")


def test_the_same_key_with_another_callback_is_another_request(client: TestClient) -> None:
    asked = {"files": {"file": CAT}, "headers": {"Idempotency-Key": "k"}}
    assert client.post("/generate", data={"callback_url": URL}, **asked).status_code == 202
    assert client.post("/generate", data={"callback_url": URL}, **asked).status_code == 202
    assert client.post("/generate", data={"callback_url": f"{URL}2"}, **asked).status_code == 422


def test_the_same_key_with_other_events_is_another_request(client: TestClient) -> None:
    asked = {"files": {"file": CAT}, "headers": {"Idempotency-Key": "k"}}
    told = {"callback_url": URL, "callback_events": "task.failed"}
    assert client.post("/generate", data=told, **asked).status_code == 202
    assert client.post("/generate", data=told, **asked).status_code == 202
    assert client.post("/generate", data=told | {"callback_events": "task.finished"}, **asked).status_code == 422


def test_behind_the_last_full_page_there_is_none(client: TestClient) -> None:
    register(client)
    for _ in range(2):
        client.post(f"/cancel/{upload(client)}")
    page = client.get("/webhooks/deliveries", params={"limit": 2}).json()
    assert (len(page["deliveries"]), page["next_after"]) == (2, None)
