"""Waiting for a task without a thread."""

import asyncio
from collections.abc import Callable

import pytest
from fastapi.testclient import TestClient

from app import follow as follow_module
from app.deps import Services
from app.follow import follow
from core.errors import LedgerUnavailable
from core.task import Claim, Status
from tests.app.conftest import CAT, upload


async def told(services: Services, task_id: str, seconds: float) -> list[Status]:
    return [task.status async for task, _ in follow(services, task_id, seconds)]


def test_what_has_ended_is_told_at_once(services: Services, finished: str) -> None:
    assert asyncio.run(told(services, finished, 60)) == [Status.FINISHED]


def test_each_move_is_told_and_the_last_one_ends_it(
    client: TestClient, services: Services, claim: Callable[[str], Claim], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow_module, "LOOK_SECONDS", 0.01)
    task_id = upload(client)

    async def watch() -> list[Status]:
        found = []
        async for task, _ in follow(services, task_id, 60):
            found.append(task.status)
            await asyncio.to_thread(claim if task.status == Status.QUEUED else services.ledger.cancel, task_id)
        return found

    assert asyncio.run(watch()) == [Status.QUEUED, Status.STARTED, Status.CANCELED]


def test_when_the_seconds_are_over_it_is_as_far_as_it_was(client: TestClient, services: Services) -> None:
    assert asyncio.run(told(services, upload(client), 0)) == [Status.QUEUED]


def test_a_prediction_that_was_accepted_is_answered_without_the_ledger(
    client: TestClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise LedgerUnavailable("away")

    picture = client.post("/v1/files", files={"content": CAT}).json()["urls"]["get"]
    with monkeypatch.context() as patched:
        patched.setattr("core.reader.Reader.task_with_steps", away)
        answer = client.post("/v1/predictions", json={"version": "preview", "input": {"image": picture}})
    assert (answer.status_code, answer.json()["status"]) == (201, "starting")
    assert client.get(f"/status/{answer.json()['id']}").json()["status"] == "queued"
