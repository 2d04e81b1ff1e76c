"""How fast the bodies of one key come and go."""

import asyncio
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app import errors, key_rates
from app.key_rates import AT_ONCE_SECONDS, BYTES_PER_SECOND, KeyRate
from app.middleware.key_turns import KeyTurns
from app.services import Services
from core.ids import new_id
from harness.pictures import CAT
from tests.app.conftest import VIDEO
from tests.conftest import artifacts_at


class Clock:
    """An event loop's, which does not go on while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def time(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(round(seconds, 6))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(key_rates, "asyncio", SimpleNamespace(get_running_loop=lambda: clock, sleep=clock.sleep))
    return clock


def body_of(seconds: float) -> dict[str, Any]:
    return {"type": "http.request", "body": bytes(round(seconds * BYTES_PER_SECOND)), "more_body": True}


def test_all_connections_of_one_key_are_as_fast_as_one(clock: Clock) -> None:
    async def pay() -> None:
        rate = KeyRate()
        await rate.pay("ann", body_of(AT_ONCE_SECONDS))
        assert clock.slept == [], "as much as that may come at once"
        for _ in range(3):
            await rate.pay("ann", body_of(0.1))
        assert clock.slept == [0.1, 0.2, 0.3]
        await rate.pay("bob", body_of(0.1))
        assert len(clock.slept) == 3, "what another key sends costs nobody anything"
        clock.now += 100
        await rate.pay("ann", body_of(AT_ONCE_SECONDS + 0.1))
        assert clock.slept[3:] == [0.1], "a rest is not saved up"

    asyncio.run(pay())


def test_what_comes_and_goes_is_paid_for_by_its_key(
    client: TestClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    paid = Counter[str]()

    async def pay(_self: KeyRate, key: str, message: dict[str, Any]) -> None:
        paid[key] += len(message.get("body", b""))

    monkeypatch.setattr(KeyRate, "pay", pay)
    key, text = services.ledger.keys.create("ann")
    answer = client.post("/generate", files={"file": CAT}, headers={"X-API-Key": text})
    assert answer.status_code == 202
    assert paid == {key.key_id: int(answer.request.headers["Content-Length"]) + len(answer.content)}


def test_a_signed_link_is_paid_for_by_who_made_it(
    client: TestClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, text = services.ledger.keys.create("ann")
    task_id = client.post("/generate", files={"file": CAT}, headers={"X-API-Key": text}).json()["task_id"]
    while claim := services.ledger.claim_next("cpu", "w", 60):
        services.storage.put("k", VIDEO)
        services.ledger.finish(claim, artifacts_at(video="k"), {}, {})
    link = client.get(f"/status/{task_id}", headers={"X-API-Key": text}).json()["result_url"]
    paid, turns = Counter[str](), []

    async def pay(_self: KeyRate, key: str, message: dict[str, Any]) -> None:
        paid[key] += len(message.get("body", b""))

    def turn_of(self: KeyTurns, key: str) -> asyncio.Semaphore:
        turns.append(key)
        return asyncio.Semaphore(1)

    monkeypatch.setattr(KeyRate, "pay", pay)
    monkeypatch.setattr(KeyTurns, "of", turn_of)
    answer = client.get(link)
    assert (answer.content, paid, turns) == (VIDEO, {key.key_id: len(VIDEO)}, [key.key_id])
    gone = client.get(link.replace(task_id, new_id()))
    assert gone.status_code == 401


def test_what_nobody_reads_is_paid_for_by_all_who_send_it(monkeypatch: pytest.MonkeyPatch) -> None:
    paid, pieces = [], [b"a" * 10, b"b" * 20, b"c"]

    async def pay(key: str, message: dict[str, Any]) -> None:
        paid.append((key, len(message["body"])))

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

    monkeypatch.setattr(errors.DISCARDED, "pay", pay)
    asyncio.run(errors.discard(receive))
    assert paid == [("", 10), ("", 20)]


def test_without_keys_nobody_waits(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KeyRate, "pay", None)
    assert client.post("/generate", files={"file": CAT}).status_code == 202
