"""An assistant's side of the Model Context Protocol, with the SDK's own client, over a real port."""

import asyncio
import base64
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client

from app.intake.source import TEXT_RULE
from core.requests.clip import ClipRequest
from harness.pictures import SAMPLES
from tests.clients.conftest import Service, frames_of

CAT = base64.b64encode((SAMPLES / "cat.jpg").read_bytes()).decode()
SMALL = {"width": 64, "height": 64, "num_frames": 2}
MODES = ["auto", "legacy"]  # of the protocol without sessions, and of the one before


@asynccontextmanager
async def connected(service: Service, key: str, mode: str = "auto", path: str = "/mcp") -> AsyncIterator[Client]:
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx2.AsyncClient(headers=headers, timeout=60, follow_redirects=True) as http:
        transport = streamable_http_client(f"{service.url}{path}", http_client=http)
        async with Client(transport, mode=mode) as client:
            yield client


async def call(client: Client, tool: str, **given: Any) -> dict[str, Any]:
    """What the tool answers; raises what it refuses."""
    result = await client.call_tool(tool, given)
    if result.is_error:
        raise ValueError(result.content[0].text)
    assert result.structured_content is not None
    return result.structured_content


async def make(client: Client, **clip: Any) -> str:
    answer = await call(client, "make_video", picture=CAT, clip=SMALL | clip)
    return str(answer["task_id"])


async def ended(client: Client, task_id: str) -> dict[str, Any]:
    while (answer := await call(client, "wait_for_task", task_id=task_id))["status"] in ("queued", "started"):
        pass
    return answer


@pytest.mark.parametrize("mode", MODES)
def test_a_picture_becomes_a_video_that_can_be_read(service: Service, mode: str) -> None:
    told: list[tuple[float, float | None, str | None]] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, total, message))

    async def journey() -> bytes:
        async with connected(service, service.ann, mode) as client:
            task_id = await make(client, seed=7)
            given = {"task_id": task_id, "seconds": 60}
            waited = await client.call_tool("wait_for_task", given, progress_callback=hear)
            assert waited.structured_content is not None
            assert waited.structured_content["status"] == "finished"
            assert waited.structured_content["params"]["seed"] == 7
            (video,) = (await client.read_resource(f"kinora://videos/{task_id}")).contents
            assert video.mime_type == "video/mp4"
            listed = await call(client, "list_tasks", in_state="finished", limit=200)
            assert task_id in [task["task_id"] for task in listed["tasks"]]
            link = httpx2.get(waited.structured_content["result_url"])  # signed: without a key
            assert link.content == base64.b64decode(video.blob)
            return link.content

    assert frames_of(asyncio.run(journey())) == (2, 64, 64)
    assert told[-1] == (100, 100, None)
    assert [progress for progress, _, _ in told] == sorted(progress for progress, _, _ in told)


@pytest.mark.parametrize("mode", MODES)
def test_a_task_is_canceled(service: Service, mode: str) -> None:
    async def journey() -> list[str]:
        async with connected(service, service.ann, mode) as client:
            task_id = await make(client, engine="svd-xt")  # which nobody takes
            answers = [await call(client, tool, task_id=task_id) for tool in ("cancel_task", "get_task", "cancel_task")]
            with pytest.raises(MCPError, match="task_canceled"):
                await client.read_resource(f"kinora://videos/{task_id}")
            return [answer["status"] for answer in answers]

    assert asyncio.run(journey()) == ["canceled"] * 3


@pytest.mark.parametrize("mode", MODES)
def test_who_gives_up_waiting_goes_on(service: Service, mode: str) -> None:
    async def journey() -> str:
        async with connected(service, service.ann, mode) as client:
            task_id = await make(client, engine="svd-xt")  # which nobody takes
            waiting = {"task_id": task_id, "seconds": 60}
            with pytest.raises(MCPError, match="timed out"):
                await client.call_tool("wait_for_task", waiting, read_timeout_seconds=0.3)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await client.call_tool("wait_for_task", waiting)
            return str((await call(client, "cancel_task", task_id=task_id))["status"])

    assert asyncio.run(journey()) == "canceled"


def test_a_picture_reaches_the_server_by_its_path_with_a_slash(service: Service) -> None:
    """The SDK follows redirects by itself, where it makes its own HTTP client."""
    large = base64.b64encode((SAMPLES / "coffee.jpg").read_bytes()).decode()

    async def journey() -> str:
        async with connected(service, service.ann, path="/mcp/") as client:
            made = await call(client, "make_video", picture=large, clip=SMALL)
            return str((await ended(client, made["task_id"]))["status"])

    assert asyncio.run(journey()) == "finished"


def test_many_wait_at_once(service: Service) -> None:
    async def one(number: int) -> int:
        async with connected(service, service.ann, MODES[number % 2]) as client:
            answer = await ended(client, await make(client, seed=number))
            return int(answer["params"]["seed"])

    async def all_of_them() -> list[int]:
        return await asyncio.gather(*map(one, range(8)))

    assert asyncio.run(all_of_them()) == list(range(8))


def test_what_one_key_made_no_other_sees(service: Service) -> None:
    async def journey() -> None:
        async with connected(service, service.ann) as ann, connected(service, service.bob) as bob:
            task_id = await make(ann)
            await ended(ann, task_id)
            for tool in ("get_task", "wait_for_task", "cancel_task"):
                with pytest.raises(ValueError, match="task_not_found"):
                    await call(bob, tool, task_id=task_id)
            with pytest.raises(MCPError, match="task_not_found"):
                await bob.read_resource(f"kinora://videos/{task_id}")
            assert task_id not in str(await call(bob, "list_tasks"))
            assert (await call(ann, "get_task", task_id=task_id))["status"] == "finished"

    asyncio.run(journey())


def test_the_tools_say_what_they_take(service: Service) -> None:
    async def ask() -> tuple[dict[str, Any], dict[str, Any]]:
        async with connected(service, service.ann) as client:
            tools = {tool.name: tool.input_schema for tool in (await client.list_tools()).tools}
            (template,) = (await client.list_resource_templates()).resource_templates
            assert template.uri_template == "kinora://videos/{task_id}"
            return tools, await call(client, "list_engines")

    tools, engines = asyncio.run(ask())
    assert set(tools) == {"make_video", "get_task", "wait_for_task", "cancel_task", "list_tasks", "list_engines"}
    assert set(tools["make_video"]["$defs"]["ClipRequest"]["properties"]) == set(ClipRequest.model_fields)
    assert engines["default"] == "preview"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"picture": CAT, "clip": {"width": 7}}, "invalid_parameter: width must be from 64 to 1920, a multiple of 2"),
        ({"picture": CAT, "clip": {"wide": 7}}, "invalid_parameter: clip.wide is not a known field"),
        ({"picture": CAT, "clip": {"fps": "x"}}, "invalid_parameter: clip.fps must be a whole number; got x"),
        ({"picture": CAT, "clip": {"fps": True}}, "invalid_parameter: clip.fps must be a whole number; got true"),
        ({"picture": CAT, "clip": {"fps": [4, 6]}}, "invalid_parameter: clip.fps must be a whole number; got [4, 6]"),
        ({"picture": CAT, "clip": {"fps": []}}, "invalid_parameter: clip.fps must be a whole number; got []"),
        ({"picture": CAT, "clip": {"seconds": 5e-324}}, "invalid_parameter: seconds must be from 0.29 to 600; got"),
        ({"picture": CAT, "clip": [SMALL]}, "invalid_parameter: clip must be an object; got [{"),
        ({"picture": CAT, "fps": 7}, "invalid_parameter: fps is not a known argument of make_video"),
        ({"picture": [CAT]}, "invalid_parameter: picture must be text; got ["),
        ({"clip": SMALL}, "invalid_parameter: picture is missing"),
        (
            {"picture": "photo.jpg"},
            "image_unsupported: picture must be a JPEG, PNG, WebP, AVIF, HEIC, GIF or BMP picture; " + TEXT_RULE,
        ),
        ({"picture": "file:///home/ann/photo.jpg"}, TEXT_RULE),
        ({"picture": "aGVsbG8="}, "image_unsupported"),
        ({"picture": "http://127.0.0.1/x.png"}, "destination_forbidden"),
        ({"picture": ""}, "file_missing"),
    ],
)
def test_a_refusal_says_what_to_mend(service: Service, given: dict[str, Any], said: str) -> None:
    async def ask() -> None:
        async with connected(service, service.ann) as client:
            await call(client, "make_video", **given)

    with pytest.raises(BaseExceptionGroup) as refused:
        asyncio.run(ask())
    assert refused.group_contains(ValueError, match=re.escape(said))
    assert not refused.group_contains(ValueError, match="Error executing|pydantic|Input should")


@pytest.mark.parametrize(
    ("tool", "given", "said"),
    [
        ("get_task", {"task_id": "7"}, "task_id must be an id, 32 of the characters 0-9 and a-f; got 7"),
        ("wait_for_task", {"task_id": "0" * 32, "seconds": 61}, "seconds must be at most 60; got 61"),
        ("wait_for_task", {"task_id": "0" * 32, "seconds": True}, "seconds must be a whole number; got true"),
        ("list_tasks", {"limit": 0}, "limit must be at least 1; got 0"),
        ("list_tasks", {"limit": [1, 2]}, "limit must be a whole number; got [1, 2]"),
        ("list_tasks", {"in_state": "done"}, "in_state must be one of queued, started, finished, failed, canceled"),
        ("list_engines", {"name": "svd"}, "name is not a known argument of list_engines"),
    ],
)
def test_every_tool_refuses_in_our_words(service: Service, tool: str, given: dict[str, Any], said: str) -> None:
    async def ask() -> str:
        async with connected(service, service.ann) as client:
            result = await client.call_tool(tool, given)
            assert result.is_error
            return result.content[0].text

    assert asyncio.run(ask()).startswith(f"invalid_parameter: {said}")


def test_an_argument_that_is_there_twice_is_refused(service: Service) -> None:
    arguments = '{"limit": 1, "limit": 2}'
    body = '{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "list_tasks", "arguments": %s}}'
    headers = {"Authorization": f"Bearer {service.ann}", "Content-Type": "application/json"}
    headers |= {"Accept": "application/json, text/event-stream"}
    answer = httpx2.post(f"{service.url}/mcp", content=body % arguments, headers=headers)
    assert "invalid_parameter: limit must be given once; it is there 2 times" in answer.text


def test_nobody_gets_in_without_a_key(service: Service) -> None:
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
    accepted = {"Accept": "application/json, text/event-stream"}
    for key in ({}, {"Authorization": "Bearer nobody"}):
        answer = httpx2.post(f"{service.url}/mcp", json=body, headers=accepted | key)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized")


def test_what_is_too_large_or_no_picture_is_not_read(service: Service) -> None:
    headers = {"Authorization": f"Bearer {service.ann}", "Content-Type": "application/json"}
    nested = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    answer = httpx2.post(f"{service.url}/mcp", content=nested, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "upload_too_large")
