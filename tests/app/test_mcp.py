"""What the SDK's client cannot bring about in tests/clients/test_mcp.py."""

import pytest
from fastapi.testclient import TestClient

from app.room import Room
from app.routes import mcp

LIST = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
ACCEPT = {"Accept": "application/json, text/event-stream"}


def test_only_so_many_speak_at_once(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each may hold a video that its client does not read."""
    monkeypatch.setattr(mcp, "EXCHANGES", Room(1, "full"))
    with mcp.EXCHANGES.place(""):
        answer = client.post("/mcp", json=LIST, headers=ACCEPT)
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "queue_full")
    assert client.post("/mcp", json=LIST, headers=ACCEPT).status_code == 200
    assert mcp.EXCHANGES.free == 1
