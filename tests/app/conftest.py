import os
from collections.abc import Callable, Iterator

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.services import Services
from core.config.settings import Settings
from core.ledger.workers import Worker
from core.storage import artifact_key
from core.task import Claim
from harness.pictures import CAT
from sandbox.decoder import Decoder
from tests.conftest import artifacts_at

FUZZ_EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "200"))  # how much hypothesis makes up; scripts/fuzz wants more
VIDEO, THUMBNAIL = bytes(range(256)) * 100, b"\xff\xd8thumbnail"


@pytest.fixture(scope="session")
def shared_decoder() -> Iterator[Decoder]:
    """One for all tests: to start a sandbox takes longer than most of them."""
    decoder = Decoder()
    yield decoder
    decoder.close()


@pytest.fixture
def client(settings: Settings, shared_decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setattr("app.errors.LINGER_SECONDS", 0.01)  # this client never hangs up by itself
    with TestClient(create_app(settings, shared_decoder), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def services(client: TestClient) -> Services:
    """With a keeper that is alive, or so it seems."""
    client.app.state.services.ledger.report_keeper("k")
    return client.app.state.services


def upload(client: TestClient, **fields: object) -> str:
    response = client.post("/generate", files={"file": CAT}, data=fields)
    assert response.status_code == 202, response.text
    return response.json()["task_id"]


@pytest.fixture
def claim(services: Services) -> Callable[[str], Claim]:
    """Claims a task's only step, as a worker would."""

    def claim(task_id: str) -> Claim:
        _, (step,) = services.ledger.task_with_steps(task_id)
        taken = services.ledger.claim(step.step_id, "w1", 60)
        assert taken is not None
        return taken

    return claim


@pytest.fixture
def finished(client: TestClient, services: Services, claim: Callable[[str], Claim]) -> str:
    """The id of a task that is finished, with VIDEO and THUMBNAIL in storage."""
    taken = claim(upload(client))
    step = taken.step
    keys = {name: artifact_key(step.task_id, step.step_id, step.attempt, name) for name in ("video", "thumbnail")}
    services.storage.put(keys["video"], VIDEO)
    services.storage.put(keys["thumbnail"], THUMBNAIL)
    services.ledger.finish(taken, artifacts_at(**keys), {"seed": 1}, {"render": 1.0})
    return step.task_id


def worker_that_says(queue: str, device: str, engine: str, reason: str | None, loading: bool = False) -> Worker:
    report = {"ready": not loading and reason is None, "loading": loading, "loaded": False, "reason": reason}
    return Worker(f"w-{queue}", queue, "h", "m", 1, device, {engine: report}, None, None, 0.0, 0.0, alive=True)
