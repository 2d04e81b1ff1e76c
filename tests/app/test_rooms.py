"""What all callers share of memory, disk and connections: of each, one key has half at most."""

import asyncio
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from types import SimpleNamespace

import pytest
from fastapi.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send

from app.middleware.auth import ANYONE
from app.middleware.body_limit import BodyLimit
from app.middleware.key_turns import AT_ONCE
from app.services import UPLOADS, Caller, Services
from core.concurrency import ConcurrencyLimit
from harness.pictures import CAT
from harness.servers import wait_until
from tests.app.test_source import TEXT


def test_uploads_of_one_key_leave_half_of_the_places(client: TestClient, services: Services) -> None:
    keys = {name: services.ledger.keys.create(name) for name in ("ann", "bob")}

    def send(name: str) -> tuple[int, str]:
        answer = client.post("/generate", files={"file": CAT}, headers={"X-API-Key": keys[name][1]})
        return answer.status_code, answer.json().get("error", {}).get("code")

    with ExitStack() as held:
        for _ in range(UPLOADS // 2):
            held.enter_context(services.uploads.slot(keys["ann"][0].key_id))
        assert send("ann") == (429, "queue_full")
        assert send("bob") == (202, None)
    for _ in range(UPLOADS):  # each makes room for the next
        assert send("ann") == (202, None)


def test_whoever_waits_for_a_video_takes_no_uploads_place() -> None:
    uploads = ConcurrencyLimit(4, "full")
    taken = []

    async def answer(_scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        taken.append(uploads.free)
        await send({"type": "http.response.start", "status": 201, "headers": []})
        taken.append(uploads.free)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(_message: Message) -> None:
        return

    limit = BodyLimit(answer, max_upload_mb=1, uploads=re.compile("/v1/predictions"))
    app = SimpleNamespace(state=SimpleNamespace(services=SimpleNamespace(uploads=uploads)))
    scope = {"type": "http", "path": "/v1/predictions", "headers": [], "app": app, "state": {"caller": ANYONE}}
    asyncio.run(limit(scope, receive, send))
    assert taken == [3, 4]


def test_the_same_picture_has_the_same_fingerprint_however_it_waits(client: TestClient) -> None:
    """Read from its file in pieces, while it is decoded or before."""
    headers = {"Idempotency-Key": "the same"}
    first = client.post("/generate", files={"file": CAT}, headers=headers).json()["task_id"]
    assert client.post("/generate", files={"file": CAT}, headers=headers).json()["task_id"] == first
    other = client.post("/generate", files={"file": CAT + b"\0"}, headers=headers)
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_mismatch")


@pytest.mark.parametrize("path", ["/webhooks", "/generate", "/v1/predictions", "/v1/videos"])
@pytest.mark.parametrize(
    ("body", "why"),
    [
        (
            "{" + ",".join(f'"n{number}":1' for number in range(5000)) + "}",
            "an object may have at most 200 fields",
        ),
        ("{" + ",".join(f'"n{number}":1' for number in range(6500)) + "}", "at most 10000 quotes"),
        ('"' * 60_000, "at most 10000 quotes"),
        ('{"events":[' + ",".join(["{}"] * 20_000) + "]}", "at most 10000 quotes and 5000 braces"),
    ],
    ids=["5000 names", "6500 names", "60000 quotes", "20000 objects"],
)
def test_a_small_body_of_very_many_parts_is_refused_before_they_are_judged(
    client: TestClient, path: str, body: str, why: str
) -> None:
    """Each would be refused by itself, which took a fifth of a second in which nobody else was answered."""
    answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert why in answer.json()["error"]["message"]


def test_a_prompt_may_have_thousands_of_quotes_and_braces(client: TestClient) -> None:
    for character in '"{':
        answer = client.post("/generate", json={"image": TEXT, "prompt": character * 4000})
        assert answer.status_code == 202, answer.text


def test_many_fields_of_a_small_form_are_counted_and_not_read(client: TestClient) -> None:
    as_form = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = client.post("/generate", content=b"a&" * 30_000, headers=as_form)
    assert (answer.status_code, "Too many fields" in answer.json()["error"]["message"]) == (400, True)


def test_an_agent_who_waits_takes_no_uploads_place(client: TestClient, services: Services) -> None:
    task_id = client.post("/generate", files={"file": CAT}).json()["task_id"]
    call = {"name": "wait_for_task", "arguments": {"task_id": task_id, "seconds": 60}}
    asked = partial(client.post, "/mcp", json={"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call})
    with ThreadPoolExecutor(1) as agent:
        waiting = agent.submit(asked)
        wait_until(lambda: services.waiting.free == services.waiting.slots - 1, what="an agent who waits")
        assert services.uploads.free == services.uploads.slots
        client.post(f"/cancel/{task_id}")
        assert waiting.result(30).json()["result"]["structuredContent"]["status"] == "canceled"
    with ExitStack() as held:
        for _ in range(services.waiting.slots):
            held.enter_context(services.waiting.slot(""))
        assert "queue_full" in asked().text


def test_pieces_of_one_keys_bodies_wait_for_one_another_and_for_no_other() -> None:
    going_on, inside = asyncio.Event(), Counter[str]()

    async def read(scope: Scope, receive: Receive, _send: Send) -> None:
        await receive()
        inside[scope["state"]["caller"].owner] += 1
        await going_on.wait()
        await receive()

    limit = BodyLimit(read, max_upload_mb=1, uploads=re.compile("/generate"))
    uploads = ConcurrencyLimit(100, "full")
    app = SimpleNamespace(state=SimpleNamespace(services=SimpleNamespace(uploads=uploads)))

    async def send_as(owner: str) -> None:
        pieces = iter([True, False])

        async def receive() -> Message:
            return {"type": "http.request", "body": b"x", "more_body": next(pieces)}

        caller = Caller(owner, owner, admin=False)
        scope = {"type": "http", "path": "/generate", "headers": [], "app": app, "state": {"caller": caller}}
        await limit(scope, receive, lambda _: asyncio.sleep(0))

    async def send_all() -> None:
        owners = ["ann"] * (AT_ONCE + 2) + ["bob"] + [""] * (AT_ONCE + 2)
        sent = [asyncio.create_task(send_as(owner)) for owner in owners]
        await asyncio.sleep(0.05)
        assert inside == {"ann": AT_ONCE, "bob": 1, "": AT_ONCE + 2}
        going_on.set()
        await asyncio.gather(*sent)

    asyncio.run(send_all())
