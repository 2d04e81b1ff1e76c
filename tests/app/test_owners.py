"""Two keys, and every route there is: neither reaches what belongs to the other, and a new route without an entry
here fails."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.middleware.auth import PUBLIC, PUBLIC_FOLDERS
from app.services import Services
from core.storage import artifact_key
from core.task import Claim
from harness.pictures import CAT
from tests.app.conftest import VIDEO, upload
from tests.conftest import artifacts_at

# What a route is asked with where its path names something of Ann's.
OF_ANN = {"task_id": "task", "video_id": "task", "endpoint_id": "endpoint", "delivery_id": "delivery"}
# And what is nobody's, where such an id means nothing.
OF_NOBODY = {"model": "task"}
# And what is there for all.
OF_ALL = {"owner": "kinora", "name": "preview", "version": "preview"}
# Routes that name nothing of anybody's: what Bob is answered, and where Ann's things could show.
SHARED = {
    ("POST", "/generate"): 422,  # without a picture
    ("GET", "/tasks"): 200,
    ("POST", "/webhooks"): 422,  # without a URL
    ("GET", "/webhooks"): 200,
    ("GET", "/webhooks/secret"): 200,
    ("GET", "/webhooks/deliveries"): 200,
    ("GET", "/engines"): 200,
    ("POST", "/v1/videos"): 422,  # without a picture
    ("POST", "/v1/videos/sync"): 422,
    ("POST", "/v1/videos/edits"): 422,  # without a video
    ("POST", "/v1/videos/extensions"): 422,
    ("GET", "/v1/videos"): 200,
    ("GET", "/v1/models"): 200,
    ("POST", "/v2beta/image-to-video"): 422,  # without a picture
    ("POST", "/v1/predictions"): 422,
    ("GET", "/v1/predictions"): 200,
    ("POST", "/v1/models/{owner}/{name}/predictions"): 422,
    ("GET", "/v1/models/{owner}/{name}"): 200,
    ("GET", "/v1/models/{owner}/{name}/versions"): 200,
    ("GET", "/v1/models/{owner}/{name}/versions/{version}"): 200,
    ("POST", "/v1/files"): 422,
    ("GET", "/v1/webhooks/default/secret"): 200,
    ("GET", "/metrics"): 403,
    ("GET", "/health"): 503,
    ("GET", "/health/live"): 200,
}
# Not in the document, for its one path is a protocol of its own: tests/clients/test_mcp.py asks it with two keys.
HIDDEN = {("POST", "/mcp")}
WITHOUT_KEY = {("GET", "/health"), ("GET", "/health/live")}


@pytest.fixture
def keys(services: Services) -> dict[str, dict[str, str]]:
    """Headers by name."""
    made = {name: services.ledger.keys.create(name, admin=name == "root")[1] for name in ("ann", "bob", "root")}
    return {name: {"Authorization": f"Bearer {text}"} for name, text in made.items()}


@pytest.fixture
def of_ann(
    client: TestClient, services: Services, keys: dict[str, dict[str, str]], claim: Callable[[str], Claim]
) -> dict[str, str]:
    """A finished task of Ann's, her endpoint, and the delivery of the one to the other; by the name of the thing."""
    client.headers.update(keys["ann"])
    endpoint = client.post("/webhooks", json={"url": "https://example.com/ann"}).json()["endpoint_id"]
    taken = claim(upload(client))
    step = taken.step
    made = {name: artifact_key(step.task_id, step.step_id, step.attempt, name) for name in ("video", "thumbnail")}
    for key in made.values():
        services.storage.put(key, VIDEO)
    services.ledger.finish(taken, artifacts_at(**made), {"seed": 1}, {}, stored_bytes=2 * len(VIDEO))
    (delivery,) = client.get("/webhooks/deliveries").json()["deliveries"]
    client.headers.pop("Authorization")
    return {"task": step.task_id, "endpoint": endpoint, "delivery": delivery["delivery_id"]}


def routes(client: TestClient) -> list[tuple[str, str]]:
    """Every operation of the OpenAPI document, and HEAD where there is a GET of a result."""
    paths: dict[str, Any] = client.get("/openapi.json").json()["paths"]
    found = [(method.upper(), path) for path, operations in paths.items() for method in operations]
    results = ("/results", "/v1/videos/{video_id}/content")
    return found + [("HEAD", path) for method, path in found if method == "GET" and path.startswith(results)]


def named(path: str, things: dict[str, str]) -> str:
    named = {name: things[thing] for name, thing in (OF_ANN | OF_NOBODY).items()}
    return path.format(**OF_ALL, **named)


def names_a_thing(path: str) -> bool:
    return any(f"{{{name}}}" in path for name in OF_ANN | OF_NOBODY)


def test_every_route_either_names_a_thing_or_is_listed_here(client: TestClient) -> None:
    unknown = [
        (method, path) for method, path in routes(client) if not names_a_thing(path) and (method, path) not in SHARED
    ]
    assert unknown == []
    assert set(SHARED) <= set(routes(client))
    parameters = {part[1:-1] for _, path in routes(client) for part in path.split("/") if part.startswith("{")}
    assert parameters == set(OF_ANN | OF_NOBODY | OF_ALL)


def test_no_route_is_hidden_from_this_table(client: TestClient) -> None:
    """By being left out of the document, or by being mounted."""
    documented = {path for _, path in routes(client)}
    served = set(paths_of(client.app.routes))
    assert len(served) > 15
    hidden = {path for _, path in HIDDEN} | {*PUBLIC, *(folder.rstrip("/") for folder in PUBLIC_FOLDERS)}
    assert served - documented == hidden - documented


def paths_of(found: list[Any]) -> Iterator[str]:
    for route in found:
        included = getattr(route, "original_router", None)  # what FastAPI makes of a router that was included
        if included:
            yield from paths_of(included.routes)
        else:
            yield route.path


def test_no_route_gives_anothers_thing_or_says_that_it_exists(
    client: TestClient, keys: dict[str, dict[str, str]], of_ann: dict[str, str]
) -> None:
    nothing = dict.fromkeys(of_ann, "0" * 32)
    tried = 0
    for method, path in routes(client):
        if not names_a_thing(path):
            continue
        answers = [client.request(method, named(path, things), headers=keys["bob"]) for things in (of_ann, nothing)]
        assert [answer.status_code for answer in answers] == [404, 404], (method, path)
        texts = [answer.text.replace(answer.headers["x-request-id"], "") for answer in answers]
        for thing, there in of_ann.items():  # but for the id that was sent, the two cannot be told apart
            texts[0] = texts[0].replace(there, nothing[thing])
        assert texts[0] == texts[1], (method, path)
        tried += 1
    assert tried >= 8
    # And nothing of it happened.
    mine = client.get(f"/status/{of_ann['task']}", headers=keys["ann"]).json()
    assert (mine["status"], mine["result_url"] is not None) == ("finished", True)
    (delivery,) = client.get("/webhooks/deliveries", headers=keys["ann"]).json()["deliveries"]
    assert delivery["status"] == "pending"
    assert len(client.get("/webhooks", headers=keys["ann"]).json()["endpoints"]) == 1


def test_no_list_shows_anothers_thing(
    client: TestClient, keys: dict[str, dict[str, str]], of_ann: dict[str, str]
) -> None:
    for (method, path), status in SHARED.items():
        answer = client.request(method, named(path, of_ann), headers=keys["bob"])
        assert answer.status_code == status, (method, path, answer.text)
        assert [thing for thing in of_ann.values() if thing in answer.text] == [], (method, path)
    for query in (f"task_id={of_ann['task']}", f"after={'f' * 32}"):
        assert client.get(f"/webhooks/deliveries?{query}", headers=keys["bob"]).json()["deliveries"] == []
    assert client.get(f"/tasks?after={'f' * 32}", headers=keys["bob"]).json()["tasks"] == []
    assert client.get(f"/v1/videos?after={'f' * 32}", headers=keys["bob"]).json()["data"] == []
    for path in ("/v1/videos/edits", "/v1/videos/extensions"):
        answer = client.post(path, json={"video": {"id": of_ann["task"]}}, headers=keys["bob"])
        assert answer.json()["error"]["code"] == "task_not_found", path
    secrets = {client.get("/webhooks/secret", headers=keys[name]).json()["secret"] for name in ("ann", "bob")}
    assert len(secrets) == 2


def test_no_route_answers_without_a_key(
    client: TestClient, keys: dict[str, dict[str, str]], of_ann: dict[str, str]
) -> None:
    for method, path in [*routes(client), *HIDDEN]:
        answer = client.request(method, named(path, of_ann))
        assert (answer.status_code == 401) == ((method, path) not in WITHOUT_KEY), (method, path)
        assert [thing for thing in of_ann.values() if thing in answer.text] == []


def test_the_owner_reaches_all_of_it(
    client: TestClient, keys: dict[str, dict[str, str]], of_ann: dict[str, str]
) -> None:
    for who in ("ann", "root"):
        task = of_ann["task"]
        for method, path in [
            ("GET", f"/status/{task}"),
            ("GET", f"/results/{task}"),
            ("GET", f"/results/{task}/thumbnail"),
            ("GET", f"/v1/videos/{task}"),
            ("GET", f"/v1/videos/{task}/content"),
            ("POST", f"/cancel/{task}"),
            ("POST", f"/webhooks/{of_ann['delivery']}/redeliver"),
        ]:
            assert client.request(method, path, headers=keys[who]).status_code == 200, (who, method, path)
        assert [found["task_id"] for found in client.get("/tasks", headers=keys[who]).json()["tasks"]] == [task]
        assert len(client.get("/webhooks", headers=keys[who]).json()["endpoints"]) == 1
        assert len(client.get("/webhooks/deliveries", headers=keys[who]).json()["deliveries"]) == 1
    assert client.delete(f"/webhooks/{of_ann['endpoint']}", headers=keys["root"]).status_code == 204
    assert client.delete(f"/tasks/{of_ann['task']}", headers=keys["root"]).status_code == 200


def test_the_same_idempotency_key_of_two_callers_makes_two_tasks(
    client: TestClient, keys: dict[str, dict[str, str]]
) -> None:
    made = {
        client.post("/generate", files={"file": CAT}, headers=keys[who] | {"Idempotency-Key": "k"}).json()["task_id"]
        for who in ("ann", "bob", "ann")
    }
    assert len(made) == 2


def test_an_endpoint_is_told_of_its_owners_tasks_only(
    client: TestClient, keys: dict[str, dict[str, str]], of_ann: dict[str, str]
) -> None:
    task = client.post("/generate", files={"file": CAT}, headers=keys["bob"]).json()["task_id"]
    client.post(f"/cancel/{task}", headers=keys["bob"])
    told = client.get("/webhooks/deliveries", headers=keys["root"]).json()["deliveries"]
    assert [delivery["task_id"] for delivery in told] == [of_ann["task"]]
