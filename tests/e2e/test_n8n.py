"""The workflow of docs/n8n sends what Kinora understands, and understands what Kinora answers."""

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from harness.receiver import receiving
from harness.servers import free_port, wait_until
from harness.stack import Stack, running_stack
from tests.e2e.n8n import Run, filled_in, served_samples
from tests.e2e.test_stack import frames_of

N8N_PORT = free_port()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running_stack(tmp_path_factory.mktemp("n8n"), FETCH_ALLOW=f"127.0.0.1:{N8N_PORT}") as stack:
        yield stack


@pytest.fixture
def run_of(stack: Stack) -> Iterator[Callable[..., Run]]:
    """A run in which `meanwhile` is called while the workflow waits, and `fields` are asked for too."""
    secret = stack.client.get("/webhooks/secret").json()["secret"]
    with receiving(secret, port=N8N_PORT) as receiver, served_samples() as pictures:

        def run_of(meanwhile: Callable[[Run], object] = lambda run: None, **fields: str) -> Run:
            def called_back() -> dict[str, Any]:
                meanwhile(run)
                wait_until(lambda: receiver.received, 60, "a callback")
                return receiver.received[0].body

            workflow = filled_in(fields, kinora=stack.url, picture=f"{pictures}/cat.jpg")
            run = Run(workflow, f"{receiver.url}/webhook-waiting/{uuid.uuid4()}", called_back)
            return run

        yield run_of


def test_a_picture_becomes_a_video(run_of: Callable[..., Run]) -> None:
    run = run_of()
    assert run.follow() == "Download the video"
    assert frames_of(run.last.binary["video"]) == (25, 1024, 576, 7.0)


def test_a_request_that_n8n_sends_again_makes_no_second_task(run_of: Callable[..., Run]) -> None:
    def again(run: Run) -> None:
        task_id = run.last.json["task_id"]
        run.last = run.items["Get the picture"]
        run.do("Make a video")
        assert run.last.json["task_id"] == task_id

    assert run_of(again).follow() == "Download the video"


def test_a_run_whose_task_is_canceled_stops(run_of: Callable[..., Run], stack: Stack) -> None:
    def cancel(run: Run) -> None:
        stack.client.post(f"/cancel/{run.last.json['task_id']}")
        stack.gate.open()

    stack.gate.close()
    run = run_of(cancel)
    assert run.follow() == "Say why not"
    assert run.last.json["body"]["type"] == "task.canceled"
