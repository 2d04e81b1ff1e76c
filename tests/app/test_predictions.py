"""What Replicate's client cannot bring about in tests/clients/test_replicate.py."""

from dataclasses import replace

import pytest
from fastapi.testclient import TestClient

from core.callbacks.payloads.replicate import located, prediction_of
from core.errors import LedgerUnavailable
from core.status import Status
from core.task import ErrorInfo
from harness.pictures import CAT
from tests.app.conftest import upload


@pytest.mark.parametrize("prefer", ["", "wait=1"])
def test_what_was_accepted_is_answered_without_the_ledger(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, prefer: str
) -> None:
    def away(*_: object) -> None:
        raise LedgerUnavailable("away")

    picture = client.post("/v1/files", files={"content": CAT}).json()["urls"]["get"]
    asked = {"version": "preview", "input": {"image": picture}}
    with monkeypatch.context() as patched:
        patched.setattr("core.ledger.reads.Reader.task", away)
        patched.setattr("core.ledger.reads.Reader.task_with_steps", away)
        answer = client.post("/v1/predictions", json=asked, headers={"Prefer": prefer})
    assert (answer.status_code, answer.json()["status"]) == (201, "starting")
    assert client.get(f"/status/{answer.json()['id']}").json()["status"] == "queued"


def test_a_prediction_that_was_waited_for_in_vain_is_starting(client: TestClient) -> None:
    """Else the client's `run` takes it for one that has ended."""
    picture = client.post("/v1/files", files={"content": CAT}).json()["urls"]["get"]
    asked = {"version": "preview", "input": {"image": picture}}
    answer = client.post("/v1/predictions", json=asked, headers={"Prefer": "wait=1"})
    assert (answer.json()["status"], answer.json()["output"]) == ("starting", None)


def test_a_failure_has_its_code(client: TestClient) -> None:
    task = client.app.state.services.ledger.task(upload(client))
    failed = replace(task, status=Status.FAILED, error=ErrorInfo("gpu_out_of_memory", "too large"))
    found = located(prediction_of(failed), "https://video.example.com", "https://video.example.com/results/x")
    assert (found["status"], found["error"], found["output"]) == ("failed", "gpu_out_of_memory: too large", None)
    assert found["urls"]["cancel"] == f"https://video.example.com/v1/predictions/{task.task_id}/cancel"


def test_a_prediction_sent_again_is_one_and_another_sizing_is_another(client: TestClient) -> None:
    picture = client.post("/v1/files", files={"content": CAT}).json()["urls"]["get"]

    def ask(sizing: str) -> tuple[int, str]:
        asked = {"version": "preview", "input": {"image": picture, "sizing_strategy": sizing}}
        answer = client.post("/v1/predictions", json=asked, headers={"Idempotency-Key": "once"})
        return answer.status_code, answer.json().get("id") or answer.json()["error"]["code"]

    first = ask("crop_to_16_9")
    assert ask("crop_to_16_9") == first
    assert ask("maintain_aspect_ratio") == (422, "idempotency_mismatch")
