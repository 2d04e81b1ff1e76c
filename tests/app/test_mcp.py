"""What the SDK's client cannot bring about in tests/clients/test_mcp.py."""

import pytest
from fastapi.testclient import TestClient

from app.dialects.mcp import server as mcp
from core.concurrency import ConcurrencyLimit

LIST = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
ACCEPT = {"Accept": "application/json, text/event-stream"}


def test_only_so_many_speak_at_once(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each may hold a video that its client does not read."""
    server = client.app.state.mcp
    monkeypatch.setattr(server, "exchanges", ConcurrencyLimit(1, "full"))
    with server.exchanges.slot(""):
        answer = client.post("/mcp", json=LIST, headers=ACCEPT)
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "queue_full")
    assert client.post("/mcp", json=LIST, headers=ACCEPT).status_code == 200
    assert server.exchanges.free == 1


def test_a_library_that_cannot_be_loaded_fails_each_request_and_nothing_else(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_server: mcp.McpServer) -> None:
        raise ImportError("broken")

    monkeypatch.setattr(mcp.McpServer, "_load", broken)
    for _ in range(2):
        answer = client.post("/mcp", json=LIST, headers=ACCEPT)
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
    assert client.get("/health/live").status_code == 200
