"""Connections that are held for twenty minutes, which is longer than any timeout of ours or of what stands between."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx2
import psutil

from harness.pictures import CAT
from harness.servers import wait_until
from harness.stack import Stack, running_stack

HELD_SECONDS = 1200
LISTENERS = 40
SMALL = {"width": 64, "height": 64, "num_frames": 2, "engine": "preview"}


def listen(stack: Stack, task_id: str) -> tuple[int, str]:
    """Return how often a stream of events said that it lives, and the last of what it told."""
    with (
        httpx2.Client(base_url=stack.url, timeout=60) as client,
        client.stream("GET", f"/status/{task_id}/events") as events,
    ):
        lines = list(events.iter_lines())
    return sum(line.startswith(":") for line in lines), [line for line in lines if line.startswith("data: ")][-1]


def wait_by_mcp(stack: Stack, task_id: str) -> str:
    """Ask again and again on one connection, as an agent does. Return how the task ended."""
    call = {"name": "wait_for_task", "arguments": {"task_id": task_id, "seconds": 50}}
    with httpx2.Client(base_url=stack.url, timeout=90) as client:
        while True:
            answer = client.post("/mcp", json={"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call})
            task = answer.json()["result"]["structuredContent"]
            if task["status"] not in ("queued", "started"):
                return str(task["status"])


def test_streams_and_agents_hold_on_for_twenty_minutes_and_cost_no_memory(tmp_path: Path) -> None:
    with running_stack(tmp_path) as stack:
        stack.gate.close("render")
        task_id = stack.client.post("/generate", files={"file": CAT}, data=SMALL).json()["task_id"]
        with ThreadPoolExecutor(LISTENERS + 1) as pool:
            heard: list[Future[tuple[int, str]]] = [pool.submit(listen, stack, task_id) for _ in range(LISTENERS)]
            agent = pool.submit(wait_by_mcp, stack, task_id)
            server = psutil.Process(stack.processes["app"].pid)
            wait_until(lambda: len(server.net_connections("inet")) > LISTENERS, what="all listeners")
            threading.Event().wait(60)
            before = server.memory_info().rss, server.num_threads()
            threading.Event().wait(HELD_SECONDS - 60)
            after = server.memory_info().rss, server.num_threads()
            assert not agent.done()
            assert not any(each.done() for each in heard), "all of them hold on"
            stack.gate.open()
            told = [each.result(60) for each in heard]
            assert agent.result(60) == "finished"
        assert all('"finished"' in last for _, last in told)
        assert min(lives for lives, _ in told) >= HELD_SECONDS // 20
        assert after[0] - before[0] < 30_000_000
        assert after[1] - before[1] <= 2
