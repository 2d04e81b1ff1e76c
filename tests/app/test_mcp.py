"""What the SDK's client cannot bring about in tests/clients/test_mcp.py."""

import json

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


CALL = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "list_tasks", "arguments": {}}}
HELLO = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}}


@pytest.mark.parametrize("accept", ["application/json", "application/*", "*/*", "", "text/html", None])
@pytest.mark.parametrize("version", ["2025-06-18", "2025-03-26", None])
def test_a_client_that_does_not_ask_for_events_is_answered_in_json(
    client: TestClient, accept: str | None, version: str | None
) -> None:
    del client.headers["accept"]
    headers = {"Accept": accept, "MCP-Protocol-Version": version}
    sent = {name: text for name, text in headers.items() if text is not None}
    hello = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": HELLO}
    for body in (hello, LIST, CALL):
        answer = client.post("/mcp", json=body, headers=sent)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json"), answer.text
        assert answer.json()["result"], answer.text
    told = client.post("/mcp", json={"jsonrpc": "2.0", "method": "notifications/initialized"}, headers=sent)
    assert told.status_code == 202


@pytest.mark.parametrize("accept", ["application/json", ACCEPT["Accept"]])
@pytest.mark.parametrize(
    "body", [[], [LIST], {}, 5, None, LIST | {"jsonrpc": "1.0"}, LIST | {"method": 5}, LIST | {"params": []}]
)
def test_what_is_no_message_is_told_what_one_is(client: TestClient, body: object, accept: str) -> None:
    answer = client.post(
        "/mcp", content=json.dumps(body), headers={"Accept": accept, "Content-Type": "application/json"}
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, -32600)
    assert answer.json()["error"]["message"].startswith("the body must be one JSON-RPC message")
    assert "pydantic" not in answer.text


def test_what_is_no_json_is_told_so(client: TestClient) -> None:
    answer = client.post("/mcp", content='{"jsonrpc":', headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]) == (400, {"code": -32700, "message": "the body is no JSON"})


def test_waiting_for_a_task_is_one_answer_in_json(client: TestClient, finished: str) -> None:
    arguments = {"name": "wait_for_task", "arguments": {"task_id": finished}, "_meta": {"progressToken": 1}}
    asked = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": arguments}
    answer = client.post("/mcp", json=asked, headers={"Accept": "application/json"})
    assert answer.json()["result"]["structuredContent"]["status"] == "finished"


@pytest.mark.parametrize("accept", [ACCEPT["Accept"], "text/event-stream", "Text/Event-Stream;q=0.9, */*;q=0.1"])
def test_a_client_that_asks_for_events_is_answered_with_them(client: TestClient, accept: str) -> None:
    answer = client.post("/mcp", json=CALL, headers={"Accept": accept})
    assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (200, "text/event-stream")


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
