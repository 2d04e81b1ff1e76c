"""What all callers share of memory, disk and connections: of each, one key has half at most."""

import asyncio
import re
from contextlib import ExitStack
from types import SimpleNamespace

import pytest
from fastapi.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send

from app.middleware.auth import ANYONE
from app.middleware.body_limit import BodyLimit
from app.services import UPLOADS, Services
from core.concurrency import ConcurrencyLimit
from harness.pictures import CAT
from tests.app.conftest import noted_slots
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


def test_text_in_a_form_is_held_as_json_is(client: TestClient, services: Services) -> None:
    """A file waits for its turn on disk; a text is read as a whole."""
    held, place = noted_slots(services.texts), services.texts.slot
    for name, picture in (("file", TEXT.encode()), ("file", CAT), ("image_url", TEXT.encode())):
        assert client.post("/generate", files={name: picture}).status_code == 202
    assert held == [("", len(TEXT)), ("", 0), ("", len(TEXT))]
    assert services.texts.free == services.texts.slots
    with place("", services.texts.slots):
        refused = client.post("/generate", files={"file": TEXT.encode()})
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
        assert client.post("/generate", files={"file": CAT}).status_code == 202


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
        ('{"events":[' + ",".join(["{}"] * 20_000) + "]}", "at most 10000 quotes and 5000 braces"),
    ],
    ids=["5000 names", "6500 names", "20000 objects"],
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


def test_a_form_that_may_hold_no_picture_needs_no_room(client: TestClient, finished: str) -> None:
    """A remix, as the clients of others send it."""
    for fields in ({"prompt": (None, "again")}, {"prompt": (None, "again"), "image": TEXT.encode()}):
        answer = client.post(f"/v1/videos/{finished}/remix", files=fields)
        assert answer.status_code == (422 if "image" in fields else 200), answer.text
