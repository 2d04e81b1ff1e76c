"""A task followed from its upload to its end, over the whole service: events, previews, and the service that stops."""

import json
import signal
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import httpx2
import numpy as np
import pytest
from PIL import Image

from harness.pictures import SAMPLES
from harness.servers import wait_until
from harness.stack import Stack, running_stack
from worker.media.fit import fit_picture

COFFEE = SAMPLES / "coffee.jpg"
CLIP = {"num_frames": 40, "width": 256, "height": 144, "motion": "zoom_in"}


@pytest.fixture
def stack(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stack]:
    processes = str(getattr(request, "param", 1))
    with running_stack(tmp_path, guarded=True, API_WORKERS=processes) as stack:
        yield stack


def events_of(stack: Stack, task_id: str) -> Iterator[tuple[str, dict]]:
    with httpx2.stream("GET", f"{stack.url}/status/{task_id}/events", timeout=30) as answer:
        name = ""
        for line in answer.iter_lines():
            kind, _, value = line.partition(": ")
            if kind == "event":
                name = value
            elif kind == "data":
                yield name, json.loads(value)


def test_a_task_is_seen_as_it_emerges(stack: Stack) -> None:
    stops, reached = iter((8, 16, 24, 32)), 0  # the engine shows its frames when it has 8, 16 and 32 of them
    stack.gate.close("render", after=next(stops))
    task_id = stack.upload(COFFEE, **CLIP)
    names, progress, previews = [], [], []
    for name, data in events_of(stack, task_id):
        names.append(name)
        if name == "preview":
            previews.append(stack.client.get(f"/preview/{task_id}"))
        else:
            progress.append(data["progress"])
        if previews and progress[-1] > reached:
            reached, stop = progress[-1], next(stops, None)
            stack.gate.close("render", after=stop) if stop else stack.gate.open()
    assert (names[0], names[-1], data["status"]) == ("status", "status", "finished")
    assert data["result_url"] == stack.status(task_id)["result_url"]
    assert progress == sorted(progress)
    assert len(set(progress)) > 3
    seen = Image.open(BytesIO(next(found.content for found in previews if found.status_code == 200)))
    assert (seen.format, seen.size) == ("WEBP", (256, 144))
    expected = fit_picture(Image.open(COFFEE).convert("RGB"), 256, 144, "cover")
    assert np.abs(np.asarray(seen.convert("RGB")).astype(float) - np.asarray(expected)).mean() < 12
    assert stack.client.get(f"/preview/{task_id}").json()["error"]["code"] == "preview_missing"
    wait_until(lambda: stack.redis.client.keys("kinora:preview*") == [], what="nothing left")
    assert stack.redis.client.acl_log() == []


@pytest.mark.parametrize("stack", [1, 2], ids=["one process", "two processes"], indirect=True)
def test_listeners_do_not_hold_up_a_service_that_stops(stack: Stack) -> None:
    stack.announced.add("ASGI callable returned without completing response")  # so that the listener comes back
    stack.kill("worker-cpu")
    task_id = stack.upload(COFFEE)
    heard = threading.Barrier(4)

    def listen() -> None:
        events = events_of(stack, task_id)
        next(events)
        heard.wait(30)
        with pytest.raises(httpx2.TransportError):  # it broke off: come back
            next(events)

    listening = [threading.Thread(target=listen) for _ in range(3)]
    for thread in listening:
        thread.start()
    heard.wait(30)
    assert stack.kill("app", signal.SIGTERM) == 0  # it is given 30 s; a heartbeat comes every 15
    for thread in listening:
        thread.join(30)
