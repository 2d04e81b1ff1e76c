"""How fast the bodies of one key come and go."""

import asyncio
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.middleware import key_rates
from app.middleware.key_rates import AT_ONCE_SECONDS, BYTES_PER_SECOND, KeyRate
from app.services import Services
from harness.pictures import CAT


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
    refused = client.post("/generate", content=iter([b"a" * 1000, b"b" * 1000]), headers={"X-API-Key": "kinora_no"})
    assert (refused.status_code, paid[""]) == (401, 2000), "of all who have no key together"


def test_without_keys_nobody_waits(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KeyRate, "pay", None)
    assert client.post("/generate", files={"file": CAT}).status_code == 202
