"""Several workers of the GPU queue on one machine, with a driver made for it; they render on the CPU."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from core.ledger.moves import Ledger
from harness.gpus import FIRST, SECOND, environment_with_gpus
from harness.servers import free_port, wait_until
from harness.stack import ROOT


@pytest.fixture(autouse=True)
def _without_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Two GPUs, and an engine that cannot be loaded there, which is soon found out."""
    own = {"DATA_DIR": str(tmp_path / "data"), "WORKER_METRICS_PORT": str(free_port()), "MODEL_ID": "/nowhere"}
    return os.environ | own | environment_with_gpus(tmp_path, FIRST, SECOND)


@pytest.fixture
def ledger(environment: dict[str, str]) -> Iterator[Ledger]:
    Path(environment["DATA_DIR"]).mkdir()
    ledger = Ledger(f"sqlite:///{environment['DATA_DIR']}/kinora.db")
    ledger.migrate()
    yield ledger
    ledger.close()


def test_the_start_script_keeps_a_worker_on_each_gpu_and_ends_them_all(
    environment: dict[str, str], ledger: Ledger
) -> None:
    def pids() -> dict[str | None, int]:
        return {worker.gpu: worker.pid for worker in ledger.workers() if psutil.pid_exists(worker.pid)}

    folder = Path(environment["DATA_DIR"])
    elsewhere = environment | {"DATA_DIR": folder.name}
    script = subprocess.Popen([ROOT / "scripts" / "workers"], cwd=folder.parent, env=elsewhere, start_new_session=True)
    wait_until(lambda: pids().keys() == {FIRST, SECOND}, 60, "a worker on each GPU")
    before = pids()
    os.kill(before[FIRST], signal.SIGKILL)
    wait_until(lambda: pids().get(FIRST, before[FIRST]) != before[FIRST], 60, "another worker on the first GPU")
    after = pids()
    assert after[SECOND] == before[SECOND]
    os.killpg(script.pid, signal.SIGINT)  # Ctrl-C: a terminal sends it to the whole group
    assert script.wait(60) == 0
    assert not any(psutil.pid_exists(pid) for pid in after.values())
    assert not any(worker.alive for worker in ledger.workers() if worker.pid in after.values())


def test_the_start_script_ends_with_78_when_a_setting_does_not_fit(environment: dict[str, str]) -> None:
    wrong = environment | {"API_PORT": "often"}
    done = subprocess.run([ROOT / "scripts" / "workers"], env=wrong, capture_output=True, text=True, timeout=300)
    assert done.returncode == 78
    assert "kinora: the settings do not fit: API_PORT: " in done.stderr
    assert "starts again" not in done.stderr


def test_the_start_script_says_where_there_is_no_gpu(environment: dict[str, str]) -> None:
    hidden = environment | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([ROOT / "scripts" / "workers"], env=hidden, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "no NVIDIA GPU can be seen here" in done.stderr
