"""POST /v1/videos/sync over a real port: who waits, and what ends the waiting before the task does."""

import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.pictures import SAMPLES
from harness.servers import wait_until
from harness.stack import Stack, running_stack

CAT = (SAMPLES / "cat.jpg").read_bytes()
# Nobody takes what waits for a GPU here.
NEVER = {"model": "svd-xt"}
PART = b'--x\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
BODY = PART % (b"model", b"", b"svd-xt") + PART % (b"input_reference", b'; filename="x"', CAT) + b"--x--\r\n"


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    with running_stack(tmp_path) as stack:
        yield stack


def videos(stack: Stack) -> list[dict[str, Any]]:
    return list(stack.client.get("/v1/videos").json()["data"])


def test_the_task_of_a_client_that_left_goes_on_and_is_waited_for_again(stack: Stack) -> None:
    head = f"POST /v1/videos/sync HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(BODY)}\r\nIdempotency-Key: k\r\n"
    with socket.create_connection(("127.0.0.1", stack.port)) as connection:
        connection.sendall(head.encode() + b"Content-Type: multipart/form-data; boundary=x\r\n\r\n" + BODY)
        wait_until(lambda: videos(stack), what="the task")
    wait_until(lambda: "status=499" in (stack.folder / "app.log").read_text(), what="the end of the waiting")
    (video,) = videos(stack)
    assert video["status"] == "queued"
    stack.client.post(f"/cancel/{video['id']}")
    key = {"Idempotency-Key": "k"}
    again = stack.client.post("/v1/videos/sync", files={"input_reference": CAT}, data=NEVER, headers=key)
    assert (again.status_code, again.json()["error"]["code"]) == (410, "task_canceled")
    assert len(videos(stack)) == 1


def test_a_service_that_is_told_to_stop_keeps_nobody_waiting(stack: Stack) -> None:
    answers: list[Any] = []
    thread = threading.Thread(
        target=lambda: answers.append(stack.client.post("/v1/videos/sync", files={"input_reference": CAT}, data=NEVER))
    )
    thread.start()
    wait_until(lambda: videos(stack), what="the task")
    (video,) = videos(stack)
    assert stack.kill("app", signal.SIGTERM) == 0
    thread.join()
    assert (answers[0].status_code, answers[0].json()["error"]["code"]) == (409, "not_ready")
    assert video["id"] in answers[0].json()["error"]["message"]
    stack.start("app", "app")
    stack.wait_until_ready()
    assert [found["status"] for found in videos(stack)] == ["queued"]
