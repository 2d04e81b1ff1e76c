"""Streams of events from a real server on a real port, to real connections."""

import asyncio
import base64
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import islice
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient

from app.main import create_app
from app.middleware.slow_clients import BoundedHttp
from app.routes import events
from core.concurrency import ConcurrencyLimit
from core.config.settings import Settings
from core.errors import LedgerUnavailable
from core.ledger.keys import Keys
from core.ledger.moves import Ledger
from core.live_previews import LivePreviews
from core.task import Claim, ErrorInfo
from harness.pictures import CAT
from harness.servers import wait_until
from tests.app.conftest import upload
from tests.conftest import artifacts_at, new_task

LISTENERS, TASKS = 500, 100


class Event(dict[str, Any]):
    """What `data` says, with the event's `name` and `id`."""

    name = id = ""


class Listener:
    """A connection to the stream of one task, and what came of it so far."""

    def __init__(self, port: int, task_id: str, after: str | None = None, key: str | None = None) -> None:
        more = f"Last-Event-ID: {after}\r\n" if after else ""
        more += f"X-API-Key: {key}\r\n" if key else ""
        request = f"GET /status/{task_id}/events HTTP/1.1\r\nHost: 127.0.0.1\r\n{more}\r\n"
        self.connection = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.connection.sendall(request.encode())
        self.lines = self.connection.makefile("r", newline="\n")
        self.ended = False

    def __iter__(self) -> Iterator[Event]:
        event = Event()
        for line in self.lines:
            name, _, value = line.strip().partition(": ")
            if name == "event":
                event.name = value
            elif name == "id":
                event.id = value
            elif name == "data":
                event.update(json.loads(value))
                yield event
                event = Event()
            elif name == "0":  # the last chunk
                self.ended = True
                return

    def close(self) -> None:
        self.lines.close()
        self.connection.close()


class Server:
    def __init__(self, app: FastAPI) -> None:
        self.app = app
        config = uvicorn.Config(app, port=0, http=BoundedHttp, log_config=None, access_log=False)
        self.uvicorn = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.uvicorn.run, daemon=True)
        self.thread.start()
        wait_until(lambda: self.uvicorn.started, 30, "the server")
        self.port: int = self.uvicorn.servers[0].sockets[0].getsockname()[1]

    @property
    def ledger(self) -> Ledger:
        ledger: Ledger = self.app.state.services.ledger
        return ledger

    @property
    def listeners(self) -> ConcurrencyLimit:
        limit: ConcurrencyLimit = self.app.state.services.listeners
        return limit

    def set_listeners(self, most: int) -> None:
        services = self.app.state.services
        self.app.state.services = replace(services, listeners=ConcurrencyLimit(most, "full"))

    def listen(self, task_id: str, after: str | None = None, key: str | None = None) -> Any:
        return closing(Listener(self.port, task_id, after, key))

    def accept(self) -> tuple[str, str]:
        """(task id, step id)"""
        task = new_task()
        ((step_id, _),) = self.ledger.create(task)
        return task.task_id, step_id

    def claim(self, step_id: str) -> Claim:
        claim = self.ledger.claim(step_id, "w1", 60)
        assert claim
        return claim


@pytest.fixture
def server(settings: Settings) -> Iterator[Server]:
    server = Server(create_app(settings))
    yield server
    server.uvicorn.should_exit = True
    server.thread.join(30)
    assert not server.thread.is_alive()


def names_and_states(events: list[Event]) -> list[tuple[str, str]]:
    return [(event.name, event["status"]) for event in events if event.name == "status"]


def test_every_change_is_told_and_the_stream_ends_with_the_last(server: Server) -> None:
    task_id, step_id = server.accept()
    with server.listen(task_id) as listener:
        told = iter(listener)
        first = next(told)
        assert (first.name, first["task_id"], first["status"], first["progress"]) == ("status", task_id, "queued", 0)
        claim = server.claim(step_id)
        assert (next(told)["status"], server.ledger.renew(claim, 60, 42, "denoise")) == ("started", True)
        progress = next(told)
        assert (progress.name, progress["progress"], progress["status"]) == ("progress", 42, "started")
        assert progress["step"] == {"verb": "clip", "phase": "denoise", "number": 1, "of": 1, "attempt": 1}
        LivePreviews(server.app.state.services.queue.redis).put(task_id, b"webp")
        preview = next(told)
        url = f"http://127.0.0.1/preview/{task_id}"
        assert (preview.name, preview) == ("preview", {"task_id": task_id, "number": 1, "preview_url": url})
        server.ledger.finish(claim, artifacts_at(video="v"), {}, {})
        (last,) = told
    assert (last.name, last["status"], last["progress"], last["step"]) == ("status", "finished", 100, None)
    assert last["result_url"] == f"http://127.0.0.1/results/{task_id}"
    assert listener.ended


def test_a_failure_is_told_with_its_reason(server: Server) -> None:
    task_id, step_id = server.accept()
    with server.listen(task_id) as listener:
        server.ledger.fail(server.claim(step_id), ErrorInfo("engine_failed", "it broke"))
        *_, last = listener
    assert (last["status"], last["error"]) == ("failed", {"code": "engine_failed", "message": "it broke"})
    assert last["result_url"] is None


def test_who_comes_late_is_told_every_state_in_order(server: Server) -> None:
    task_id, step_id = server.accept()
    server.claim(step_id)
    server.ledger.cancel(task_id)
    with server.listen(task_id) as listener:
        told = list(listener)
    assert names_and_states(told) == [("status", "queued"), ("status", "started"), ("status", "canceled")]


def test_who_comes_back_is_told_what_he_missed_and_nothing_twice(server: Server) -> None:
    task_id, step_id = server.accept()
    claim = server.claim(step_id)
    server.ledger.renew(claim, 60, 42, "denoise")
    with server.listen(task_id) as listener:
        queued, started = islice(listener, 2)
    assert started["progress"] == 42
    with server.listen(task_id, after=started.id) as listener:
        told = iter(listener)
        server.ledger.renew(claim, 60, 42, "decode")  # what was seen is not told again; this was not
        decoding = next(told)
        assert (decoding.name, decoding["step"]["phase"]) == ("progress", "decode")
    server.ledger.finish(claim, artifacts_at(video="v"), {}, {})
    expected = {queued.id: ["started", "finished"], started.id: ["finished"], decoding.id: ["finished"]}
    for seen, states in expected.items():
        with server.listen(task_id, after=seen) as listener:
            assert [event["status"] for event in listener] == states


def test_a_preview_that_was_seen_is_not_told_again(server: Server) -> None:
    task_id, step_id = server.accept()
    claim = server.claim(step_id)
    previews = LivePreviews(server.app.state.services.queue.redis)
    previews.put(task_id, b"one")
    with server.listen(task_id) as listener:
        seen = next(event for event in listener if event.name == "preview")
    with server.listen(task_id, after=seen.id) as listener:
        server.ledger.renew(claim, 60, 50, "denoise")
        told = iter(listener)
        assert next(told).name == "progress"
        previews.put(task_id, b"two")
        assert next(told)["number"] == 2


def test_who_has_seen_the_end_is_told_not_to_come_back(server: Server) -> None:
    task_id, _ = server.accept()
    server.ledger.cancel(task_id)
    with server.listen(task_id) as listener:
        *_, last = listener
    url = f"http://127.0.0.1:{server.port}/status/{task_id}/events"
    assert httpx2.get(url, headers={"Last-Event-ID": last.id}).status_code == 204


@pytest.mark.parametrize("event_id", ["nonsense", "1", "1.2.3", "999999.0.0.0..0", "0.0.0.0..0", "1.0.0.0..0\u00b2"])
def test_an_id_that_is_none_of_the_tasks_is_refused(client: TestClient, event_id: str) -> None:
    answer = client.get(f"/status/{upload(client)}/events", headers={"Last-Event-ID": event_id.encode()})
    assert answer.status_code == 422
    assert (answer.json()["error"]["code"], answer.json()["error"]["param"]) == ("invalid_parameter", "Last-Event-ID")


def test_a_silent_stream_is_kept_alive_by_comments(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "HEARTBEAT_SECONDS", 0.05)
    task_id, _ = server.accept()
    with server.listen(task_id) as listener:
        comments = (line for line in listener.lines if line.startswith(":"))
        assert len(list(islice(comments, 3))) == 3


def test_a_ledger_that_is_away_ends_no_stream(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    task_id, step_id = server.accept()
    with server.listen(task_id) as listener:
        told = iter(listener)
        assert next(told)["status"] == "queued"
        failed = threading.Event()

        def away(_ids: object) -> None:
            failed.set()
            raise LedgerUnavailable("away")

        with monkeypatch.context() as patch:
            patch.setattr(server.ledger, "snapshots", away)
            assert failed.wait(20)
        server.claim(step_id)
        assert next(told)["status"] == "started"


def test_a_stream_is_counted_as_it_begins(server: Server) -> None:
    task_id, _ = server.accept()
    with server.listen(task_id) as listener:
        next(iter(listener))
        text = httpx2.get(f"http://127.0.0.1:{server.port}/metrics").text
        assert 'kinora_http_seconds_count{method="GET",route="/status/{task_id}/events"} 1.0' in text


def test_a_listener_who_leaves_makes_room_for_another(server: Server) -> None:
    server.set_listeners(1)
    task_id, _ = server.accept()
    url = f"http://127.0.0.1:{server.port}/status/{task_id}/events"
    with server.listen(task_id) as listener:
        next(iter(listener))
        refused = httpx2.get(url)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
    wait_until(lambda: server.listeners.free == 1, what="room")
    server.ledger.cancel(task_id)
    assert httpx2.get(url).status_code == 200
    wait_until(lambda: server.listeners.free == 1, what="room")


def test_500_listeners_cost_two_queries_a_tick(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    accepted = [server.accept() for _ in range(TASKS)]
    threads = threading.active_count()  # those of this process, which other tests may have left some of
    asked: list[str] = []
    ticks: list[int] = []
    snapshots = server.ledger.snapshots

    def counted(ids: list[str]) -> object:
        ticks.append(len(ids))
        return snapshots(ids)

    async def listen(task_id: str, started: asyncio.Semaphore) -> list[str]:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(f"GET /status/{task_id}/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        states = []
        async for state in states_in(reader):
            states.append(state)
            if state == "queued":
                started.release()
        writer.close()
        return states

    async def all_listen() -> list[list[str]]:
        started = asyncio.Semaphore(0)
        listening = [asyncio.create_task(listen(accepted[i % TASKS][0], started)) for i in range(LISTENERS)]
        for _ in range(LISTENERS):
            await started.acquire()
        await asyncio.to_thread(watch)
        await asyncio.to_thread(end_all)
        return await asyncio.gather(*listening)

    def watch() -> None:
        monkeypatch.setattr(server.ledger, "snapshots", counted)
        wait_until(lambda: ticks, what="a tick")
        sa.event.listen(server.ledger.database, "before_cursor_execute", note)
        wait_until(lambda: len(asked) >= 10, what="queries")
        sa.event.remove(server.ledger.database, "before_cursor_execute", note)
        monkeypatch.undo()
        assert threading.active_count() - threads < 50  # 40 of them are the API server's for whatever is asked

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement != "BEGIN" and "lowest_reader" not in statement:  # which each process asks now and then
            asked.append(statement)

    def end_all() -> None:
        for _, step_id in accepted:
            server.ledger.finish(server.claim(step_id), artifacts_at(video="v"), {}, {})

    told = asyncio.run(all_listen())
    assert {tuple(states) for states in told} <= {("queued", "started", "finished")}
    assert len(told) == LISTENERS
    assert set(ticks) == {TASKS}
    # Whether keys are asked for, and the tasks; the first may have asked before its queries were noted.
    assert 2 * (len(ticks) - 1) <= len(asked) <= 2 * (len(ticks) + 1)
    assert len({statement.partition("\n")[0] for statement in asked}) == 2


async def states_in(reader: asyncio.StreamReader) -> AsyncIterator[str]:
    """The states that `status` events tell, until the stream ends."""
    name = ""
    while (line := (await reader.readline()).decode().strip()) != "0":
        if line.startswith("event: "):
            name = line[7:]
        elif line.startswith("data: ") and name == "status":
            yield json.loads(line[6:])["status"]


def test_nothing_is_asked_while_nobody_listens(server: Server) -> None:
    task_id, _ = server.accept()
    poller = server.app.state.poller
    for _ in range(2):  # and it begins anew
        with server.listen(task_id) as listener:
            next(iter(listener))
            assert poller.is_polling
        wait_until(lambda: not poller.is_polling, what="rest")


def test_one_key_does_not_take_all_places(server: Server) -> None:
    server.set_listeners(2)
    urls, headers = {}, {}
    for name in ("ann", "bob"):
        key, text = server.ledger.keys.create(name)
        server.ledger.create(task := replace(new_task(), owner=key.key_id))
        urls[name] = f"http://127.0.0.1:{server.port}/status/{task.task_id}/events"
        headers[name] = {"X-API-Key": text}
    with httpx2.stream("GET", urls["ann"], headers=headers["ann"]) as first:
        assert first.status_code == 200
        assert httpx2.get(urls["ann"], headers=headers["ann"]).status_code == 429
        with httpx2.stream("GET", urls["bob"], headers=headers["bob"]) as second:
            assert second.status_code == 200


def test_a_fault_of_ours_ends_no_stream(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    task_id, step_id = server.accept()
    with server.listen(task_id) as listener:
        told = iter(listener)
        assert next(told)["status"] == "queued"
        looks: list[int] = []

        def broken(_ids: object) -> None:
            looks.append(1)
            raise ZeroDivisionError

        with monkeypatch.context() as patch:
            patch.setattr(server.ledger, "snapshots", broken)
            wait_until(lambda: len(looks) > 1, what="another look")
        server.claim(step_id)
        assert next(told)["status"] == "started"


CLOSED = {"revoked": Keys.revoke, "rotated": Keys.rotate}


@pytest.mark.parametrize("change", CLOSED)
def test_a_stream_ends_with_its_key_and_tells_no_result(server: Server, change: str) -> None:
    keys = server.ledger.keys
    (ann, text), (_, admin) = keys.create("ann"), keys.create("root", admin=True)
    ((step_id, _),) = server.ledger.create(task := replace(new_task(), owner=ann.key_id))
    with server.listen(task.task_id, key=text) as listener, server.listen(task.task_id, key=admin) as other:
        assert next(iter(listener))["status"] == "queued"
        CLOSED[change](keys, "ann")
        server.ledger.finish(server.claim(step_id), artifacts_at(video="v"), {}, {})
        assert [event["status"] for event in listener] == []
        assert listener.ended
        told = names_and_states(list(other))
    assert told[-1] == ("status", "finished"), "whose key is as it was"


def test_a_stream_that_nobody_was_asked_for_a_key_for_ends_with_the_first_key(server: Server) -> None:
    task_id, step_id = server.accept()
    with server.listen(task_id) as listener:
        assert next(iter(listener))["status"] == "queued"
        server.ledger.keys.create("ann")
        server.ledger.finish(server.claim(step_id), artifacts_at(video="v"), {}, {})
        assert list(listener) == []
        assert listener.ended


def test_where_nobody_is_ever_asked_for_a_key_a_stream_goes_on(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"auth": "off"}))
    server = Server(app)
    try:
        task_id, step_id = server.accept()
        with server.listen(task_id) as listener:
            assert next(iter(listener))["status"] == "queued"
            server.ledger.keys.create("ann")
            server.ledger.finish(server.claim(step_id), artifacts_at(video="v"), {}, {})
            assert list(listener)[-1]["status"] == "finished"
    finally:
        server.uvicorn.should_exit = True
        server.thread.join(30)


def of_ann(server: Server) -> tuple[str, dict[str, Any]]:
    """A key, and a task that is made with it."""
    ann, text = server.ledger.keys.create("ann")
    task = replace(new_task(), owner=ann.key_id)
    server.ledger.create(task)
    params = {"name": "wait_for_task", "arguments": {"task_id": task.task_id, "seconds": 60}}
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    picture = {"version": "preview", "input": {"image": "data:image/jpeg;base64," + base64.b64encode(CAT).decode()}}
    return text, {
        "/v1/videos/sync": {"files": {"input_reference": CAT}},
        "/v1/predictions": {"json": picture},
        "/mcp": {"json": call},
    }


@pytest.mark.parametrize("change", CLOSED)
@pytest.mark.parametrize("path", ["/v1/videos/sync", "/v1/predictions", "/mcp"])
def test_a_request_that_waits_ends_with_its_key_and_tells_no_result(server: Server, path: str, change: str) -> None:
    text, asked = of_ann(server)
    answers: list[httpx2.Response] = []

    def ask() -> None:
        headers = {"X-API-Key": text, "Prefer": "wait=60", "Accept": "application/json"}
        url = f"http://127.0.0.1:{server.port}{path}"
        answers.append(httpx2.post(url, headers=headers, timeout=50, **asked[path]))

    thread = threading.Thread(target=ask)
    thread.start()
    wait_until(lambda: server.app.state.poller.is_polling)
    CLOSED[change](server.ledger.keys, "ann")
    thread.join(40)
    (answer,) = answers
    if path == "/v1/videos/sync":
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized")
    elif path == "/v1/predictions":
        assert (answer.status_code, answer.json()["status"], answer.json()["output"]) == (201, "starting", None)
    else:
        assert answer.json()["result"]["content"][0]["text"].startswith("unauthorized: ")
    assert "signature=" not in answer.text
