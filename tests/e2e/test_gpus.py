"""Several workers of the GPU queue on one machine, with a driver made for it; they render on the CPU."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import psutil
import pytest

from core.ledger import Ledger
from harness.gpus import FIRST, SECOND, environment_with_gpus
from harness.pictures import SAMPLES
from harness.servers import RedisServer, free_port, wait_until
from harness.stack import ROOT, Stack

IMPATIENT = "tests.e2e.impatient_worker"
SMALL = {"width": 128, "height": 64, "num_frames": 2, "num_inference_steps": 1}


HOLDER = """
import sys
from pathlib import Path
from core.logs import set_up_logs
from worker.gpu import Gpu
set_up_logs("json")
Gpu(Path(sys.argv[1])).hold()
print("holds it", flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _without_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_one_worker_too_many_says_so_and_takes_over_where_a_gpu_falls_free(tmp_path: Path, tiny_svd: Path) -> None:
    settings = environment_with_gpus(tmp_path, FIRST) | {"ENGINE": "svd-xt", "MODEL_ID": str(tiny_svd)}
    with (
        RedisServer() as redis,
        holder(tmp_path / "data" / "gpus", settings) as other,
        Stack(tmp_path, redis, **settings) as stack,
    ):
        stack.announced.add("engine_unavailable")
        for name, *command in (("app", "app"), ("keeper", "keeper"), ("spare", IMPATIENT, "--queue", "gpu")):
            stack.start(name, *command)
        said = "1 can be seen here, and each has a worker already"
        wait_until(lambda: said in (reason(stack) or ""), 60, "the reason")
        assert "torch" not in Path(f"/proc/{stack.processes['spare'].pid}/maps").read_text()
        assert gpus(stack) == [None]
        other.kill()
        stack.wait_until_ready()
        assert gpus(stack) == [FIRST]
        task = stack.wait_for(stack.upload(SAMPLES / "cat.jpg", **SMALL))
        assert task["status"] == "finished"
        assert task["receipt"]["parameters"]["decode_chunk_size"] == 2  # it was left to the engine


@contextlib.contextmanager
def holder(folder: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Another worker, as far as a GPU can tell."""
    command = [sys.executable, "-c", HOLDER, str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, env=os.environ | environment, text=True, **pipes) as process:
        assert process.stdout.readline() == "holds it\n"
        yield process
        process.kill()


def reason(stack: Stack) -> str | None:
    with contextlib.suppress(httpx2.TransportError):
        engines = {engine["name"]: engine for engine in stack.client.get("/engines").json()["engines"]}
        return engines["svd-xt"]["reason"]
    return None


def gpus(stack: Stack) -> list[str | None]:
    """What the live workers hold."""
    return [worker["gpu"] for worker in stack.client.get("/health").json()["queues"]["gpu"]["workers"]]


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

    script = subprocess.Popen([ROOT / "scripts" / "workers"], env=environment, start_new_session=True)
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


def test_the_start_script_says_where_there_is_no_gpu(environment: dict[str, str]) -> None:
    hidden = environment | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([ROOT / "scripts" / "workers"], env=hidden, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "no NVIDIA GPU can be seen here" in done.stderr
