"""One worker too many for the GPUs there are, with a driver made for it, on which torch cannot render."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from harness.gpus import FIRST, environment_with_gpus
from harness.pictures import SAMPLES
from harness.servers import RedisServer, wait_until
from harness.stack import ROOT, Stack

IMPATIENT = "tests.long.impatient_worker"
HOLDER = """
import sys
from pathlib import Path
from core.process.logs import set_up_logs
from worker.engines.gpu import Gpu
set_up_logs("json")
Gpu(Path(sys.argv[1])).hold()
print("holds it", flush=True)
sys.stdin.read()
"""


def test_one_worker_too_many_says_so_and_takes_over_where_a_gpu_falls_free(
    tmp_path: Path, tiny_svd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    settings = environment_with_gpus(tmp_path, FIRST) | {"ENGINE": "auto", "MODEL_ID": str(tiny_svd)}
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
        said_next = "install the torch that is built for CUDA"  # the GPU is made up: nobody renders on the CPU instead
        wait_until(lambda: (reason(stack) or "").startswith(said_next), 60, "the next reason")
        assert gpus(stack) == [FIRST]
        refused = stack.client.post("/generate", files={"file": (SAMPLES / "cat.jpg").read_bytes()})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_unavailable")
        assert said_next in refused.json()["error"]["message"]


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
