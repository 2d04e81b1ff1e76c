"""KeyTurns of one key at what all share: the event loop and its threads."""

import asyncio
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi import Request
from fastapi.testclient import TestClient
from starlette.types import Message

from app.middleware.key_turns import AT_ONCE, KeyTurns, piece_by_piece
from app.services import Services
from harness.servers import wait_until


def test_of_one_key_a_few_requests_are_worked_on_and_the_others_wait(client: TestClient, services: Services) -> None:
    keys = {name: services.ledger.keys.create(name)[1] for name in ("ann", "bob")}
    inside, going_on = Counter[str](), threading.Event()

    def slow(request: Request) -> None:
        inside[request.state.caller.name] += 1
        going_on.wait(30)

    client.app.add_api_route("/slow", slow)

    def ask(name: str) -> int:
        return client.get("/slow", headers={"X-API-Key": keys[name]}).status_code

    with ThreadPoolExecutor(AT_ONCE + 4) as callers:
        asked = [callers.submit(ask, "ann") for _ in range(AT_ONCE + 3)]
        wait_until(lambda: inside["ann"] == AT_ONCE, what="all that may at once")
        asked.append(callers.submit(ask, "bob"))
        wait_until(lambda: inside["bob"] == 1, what="another key's turn")
        assert inside["ann"] == AT_ONCE
        going_on.set()
        assert [each.result() for each in asked] == [200] * len(asked)


def test_of_one_keys_bodies_a_few_have_a_piece_read_at_once() -> None:
    turns, handled, most = KeyTurns(), Counter[str](), Counter[str]()

    async def read(key: str) -> None:
        pieces = iter([True, True, False])

        async def receive() -> Message:
            return {"type": "http.request", "body": b"x", "more_body": next(pieces)}

        with piece_by_piece(receive, turns.of(key)) as receive_in_turn:
            while (await receive_in_turn())["more_body"]:
                handled[key] += 1
                most[key] = max(most[key], handled[key])
                await asyncio.sleep(0.001)
                handled[key] -= 1

    async def read_all() -> None:
        await asyncio.gather(*(read(key) for key in ["ann"] * 20 + ["bob"] * 2))

    asyncio.run(read_all())
    assert most == {"ann": AT_ONCE, "bob": 2}


@pytest.mark.parametrize("more", [True, False])
def test_a_body_that_breaks_off_keeps_no_turn(more: bool) -> None:
    async def break_off() -> int:
        turn = KeyTurns().of("ann")

        async def receive() -> Message:
            return {"type": "http.request", "body": b"x", "more_body": more}

        for _ in range(AT_ONCE + 1):
            with piece_by_piece(receive, turn) as receive_in_turn:
                await asyncio.wait_for(receive_in_turn(), 10)
        return turn._value

    assert asyncio.run(break_off()) == AT_ONCE
