"""Requests with keys that open nothing, and those who come from the same address with keys that do."""

import asyncio
import secrets
import threading
from collections.abc import Iterator

import httpx2
import pytest
import sqlalchemy as sa
from fastapi import Request
from fastapi.testclient import TestClient

from app.main import create_app
from app.middleware import failed_keys
from app.middleware.failed_keys import LOOK_UPS, MOST_FAILURES, FailedKeys, remember
from app.services import Services
from core.config.settings import Settings
from core.ledger.keys import new_text
from core.ledger.moves import Ledger
from tests.app.test_slow_clients import served

DIALECTS = ["/tasks", "/v1/videos", "/v1/predictions/x", "/mcp", "/results/x", "/health", "/metrics", "/nothing"]


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failed_keys, "PAUSE_SECONDS", 0.01)


@pytest.fixture
def key(services: Services) -> str:
    return services.ledger.keys.create("ann")[1]


def ask(client: TestClient, text: str, path: str = "/tasks", address: str = "192.0.2.1") -> tuple[int, str]:
    client._transport.client = (address, 1)  # type: ignore[attr-defined]
    answer = client.get(path, headers={"Authorization": f"Bearer {text}"})
    return answer.status_code, answer.json().get("error", {}).get("code", "")


def exhaust(client: TestClient, address: str = "192.0.2.1") -> None:
    for _ in range(MOST_FAILURES):
        assert ask(client, new_text(), address=address) == (401, "unauthorized")


@pytest.mark.parametrize("path", DIALECTS)
def test_after_too_many_unknown_keys_an_address_is_told_when_to_come_back(
    client: TestClient, key: str, path: str
) -> None:
    exhaust(client)
    answer = client.get(path, headers={"X-API-Key": new_text()})
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "rate_limited")
    assert 0 < int(answer.headers["retry-after"]) <= 60
    assert "no such key" in answer.json()["error"]["message"]


def test_a_key_that_is_right_opens_whatever_others_send_from_its_address(
    client: TestClient, services: Services, key: str
) -> None:
    exhaust(client)
    assert ask(client, new_text())[0] == 429
    assert ask(client, key) == (200, ""), "which was never seen before"
    assert ask(client, new_text())[0] == 429
    assert ask(client, key) == (200, "")
    assert ask(client, services.ledger.keys.create("bob")[1]) == (200, ""), "which was made meanwhile"
    assert client.get("/health/live").status_code == 200
    assert client.get("/").status_code == 200


def test_a_key_that_was_revoked_opens_nothing_though_it_is_known(
    client: TestClient, services: Services, key: str
) -> None:
    assert ask(client, key) == (200, "")
    services.ledger.keys.revoke("ann")
    assert ask(client, key) == (401, "unauthorized")


def test_each_address_is_counted_for_itself(client: TestClient, key: str) -> None:
    exhaust(client)
    assert ask(client, new_text())[0] == 429
    assert ask(client, new_text(), address="192.0.2.2")[0] == 401


def test_the_addresses_of_one_ipv6_network_are_counted_together(client: TestClient, key: str) -> None:
    exhaust(client, "2001:db8:0:1::1")
    assert ask(client, new_text(), address="2001:db8:0:1:ffff::2")[0] == 429
    assert ask(client, new_text(), address="2001:db8:0:2::1")[0] == 401


def test_an_address_of_ipv4_is_one_however_it_is_written(client: TestClient, key: str) -> None:
    exhaust(client, "::ffff:192.0.2.1")
    assert ask(client, new_text(), address="192.0.2.1")[0] == 429
    assert ask(client, new_text(), address="::ffff:192.0.2.2")[0] == 401


def test_no_key_at_all_counts_too(client: TestClient, key: str) -> None:
    for _ in range(MOST_FAILURES):
        assert client.get("/tasks").status_code == 401
    assert client.get("/tasks").status_code == 429


def test_once_the_window_is_over_it_is_counted_anew(
    client: TestClient, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    exhaust(client)
    assert ask(client, new_text())[0] == 429
    now = failed_keys.time.monotonic()
    monkeypatch.setattr(failed_keys.time, "monotonic", lambda: now + failed_keys.WINDOW_SECONDS)
    assert ask(client, new_text())[0] == 401


@pytest.fixture
def statements(services: Services) -> Iterator[list[str]]:
    asked: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if "api_keys" in statement:
            asked.append(statement)

    sa.event.listen(services.ledger.database, "before_cursor_execute", note)
    yield asked
    sa.event.remove(services.ledger.database, "before_cursor_execute", note)


@pytest.mark.parametrize("text", ["", "x", "kinora_", "sk-" + "a" * 48, "kinora_" + "a" * 42, "kinora_" + "é" * 43])
def test_what_cannot_be_a_key_costs_no_query(client: TestClient, key: str, statements: list[str], text: str) -> None:
    ask(client, new_text())  # after which it is known that somebody has a key
    statements.clear()
    answer = client.get("/tasks", headers={"Authorization": f"Bearer {text}".encode()})
    assert answer.status_code == 401
    assert statements == []


def test_the_tables_of_addresses_and_of_known_keys_are_bounded() -> None:
    failed, most = FailedKeys(), failed_keys.MOST_ADDRESSES
    for number in range(most + 500):
        failed._count(f"192.0.2.{number}")
        remember(failed._known, secrets.token_bytes(32), None, failed_keys.MOST_KNOWN)
    assert (len(failed._failures), len(failed._known)) == (most, failed_keys.MOST_KNOWN)
    assert f"192.0.2.{most + 499}" in failed._failures


def test_where_nobody_is_asked_for_a_key_none_fails(settings: Settings) -> None:
    with TestClient(create_app(settings.model_copy(update={"auth": "off"}))) as client:
        for _ in range(MOST_FAILURES + 1):
            assert ask(client, "none") == (200, "")


def test_behind_a_proxy_the_address_is_the_callers(settings: Settings) -> None:
    """Over a real port: what the caller adds himself does not count, what the proxy adds behind it does."""
    ledger = Ledger(settings.resolved_database_url)
    ledger.migrate()
    _, key = ledger.keys.create("ann")
    ledger.close()
    with served(settings) as port, httpx2.Client(base_url=f"http://127.0.0.1:{port}") as client:

        def status(text: str, forwarded: str) -> int:
            return client.get("/tasks", headers={"X-API-Key": text, "X-Forwarded-For": forwarded}).status_code

        guessed = [status(new_text(), f"192.0.2.{number}, 198.51.100.1") for number in range(MOST_FAILURES + 1)]
        assert guessed == [401] * MOST_FAILURES + [429]
        assert status(key, "198.51.100.1") == 200
        assert status(new_text(), "198.51.100.2") == 401


def test_keys_that_are_not_known_are_looked_up_in_a_few_threads_and_others_beside_them() -> None:
    entered, going_on = threading.Semaphore(0), threading.Event()

    def look_up(request: Request) -> str:
        if request.scope["is_new"]:
            entered.release()
            going_on.wait(30)
        return "opens"

    async def look_all_up() -> None:
        keys = FailedKeys()
        known, new = Request({"type": "http", "is_new": False}), Request({"type": "http", "is_new": True})
        assert await keys.look_up("ann's", look_up, known) == "opens"
        unknown = [asyncio.create_task(keys.look_up(new_text(), look_up, new)) for _ in range(LOOK_UPS + 3)]
        await asyncio.to_thread(lambda: [entered.acquire(timeout=30) for _ in range(LOOK_UPS)])
        assert await keys.look_up("ann's", look_up, known) == "opens", "while they are looked up"
        assert not entered.acquire(blocking=False)
        going_on.set()
        assert await asyncio.gather(*unknown) == ["opens"] * len(unknown)

    asyncio.run(look_all_up())
