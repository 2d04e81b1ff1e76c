from collections.abc import Callable
from dataclasses import replace

from fastapi.testclient import TestClient

from app.services import Services
from core.live_previews import LivePreviews
from core.queue import StepQueue
from core.task import Claim
from harness.servers import free_port
from tests.app.conftest import upload

WEBP = b"RIFF....WEBP"


def code(client: TestClient, task_id: str) -> str:
    answer = client.get(f"/preview/{task_id}")
    assert answer.status_code == 404
    return answer.json()["error"]["code"]


def test_a_preview_is_there_while_the_task_runs_and_no_longer(
    client: TestClient, services: Services, claim: Callable[[str], Claim]
) -> None:
    taken = claim(upload(client))
    task_id = taken.task.task_id
    assert code(client, task_id) == "preview_missing"
    LivePreviews(services.queue.redis).put(task_id, WEBP)
    answer = client.get(f"/preview/{task_id}")
    assert (answer.status_code, answer.content, answer.headers["content-type"]) == (200, WEBP, "image/webp")
    assert answer.headers["cache-control"] == "no-store"
    services.ledger.cancel(task_id)
    assert code(client, task_id) == "preview_missing"  # though Redis still has it


def test_who_has_the_newest_is_not_sent_it_again(
    client: TestClient, services: Services, claim: Callable[[str], Claim]
) -> None:
    task_id, previews = claim(upload(client)).task.task_id, LivePreviews(services.queue.redis)
    previews.put(task_id, WEBP)
    seen = {"If-None-Match": client.get(f"/preview/{task_id}").headers["etag"]}
    again = client.get(f"/preview/{task_id}", headers=seen)
    assert (again.status_code, again.content) == (304, b"")
    previews.put(task_id, WEBP)
    assert client.get(f"/preview/{task_id}", headers=seen).status_code == 200


def test_while_redis_is_away_there_is_none(client: TestClient, services: Services) -> None:
    away = StepQueue(services.settings.model_copy(update={"redis_port": free_port()}))
    task_id = upload(client)
    client.app.state.services = replace(services, queue=away)
    assert code(client, task_id) == "preview_missing"
    client.app.state.services = services


def test_an_unknown_task_has_no_preview(client: TestClient) -> None:
    assert code(client, "0" * 32) == "task_not_found"
