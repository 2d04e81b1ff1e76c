"""Which GPU a worker takes: real processes and real locks, over a driver that is made for it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from core.config import Settings
from core.errors import EngineUnavailable
from harness.gpus import FIRST, SECOND, environment_with_gpus, started
from harness.stack import ROOT
from worker.gpu import Gpu, visible_gpus
from worker.renderers import Renderers

# What a worker does before it loads its engine. Then it waits, and at last starts CUDA, as its engine would.
WORKER = """
import json, os, subprocess, sys
from pathlib import Path
from core.errors import EngineUnavailable
from core.logs import set_up_logs
from worker.gpu import Gpu, ask_driver

set_up_logs("json")
gpu, reason = Gpu(Path(sys.argv[1])), None
try:
    gpu.hold()
except EngineUnavailable as error:
    reason = error.message
child = subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL).pid if "with-child" in sys.argv else None
said = {"gpu": gpu.uuid, "found": gpu.found, "visible": os.environ.get("CUDA_VISIBLE_DEVICES")}
print(json.dumps(said | {"reason": reason, "child": child}), flush=True)
sys.stdin.readline()
print(json.dumps(ask_driver()), flush=True)
"""


class Worker:
    """One that chooses its GPU."""

    def __init__(self, folder: Path, environment: dict[str, str], *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(folder), *arguments],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    @cached_property
    def said(self) -> dict[str, Any]:
        """What it holds, once it has chosen, and what came of it."""
        return dict(json.loads(self.process.stdout.readline()))

    def gpus_inside(self) -> list[str]:
        """What CUDA sees when it starts in this process, which ends then."""
        return list(json.loads(self.process.communicate("go on\n", timeout=20)[0]))

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


class Machine:
    """Two GPUs, and the workers there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "gpus"
        self.environment = os.environ | environment_with_gpus(folder, FIRST, SECOND)
        self.environment.pop("CUDA_VISIBLE_DEVICES", None)
        self.workers: list[Worker] = []

    def start(self, *arguments: str, **environment: str) -> Worker:
        self.workers.append(Worker(self.folder, self.environment | environment, *arguments))
        return self.workers[-1]

    def see(self, monkeypatch: pytest.MonkeyPatch, **settings: str) -> None:
        """Let what this process starts see the GPUs."""
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        for name, value in (self.environment | settings).items():
            monkeypatch.setenv(name, value)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    for worker in machine.workers:
        worker.kill()


def test_each_worker_takes_a_gpu_of_its_own_and_one_too_many_says_so(machine: Machine) -> None:
    workers = [machine.start() for _ in range(3)]  # at once
    said = sorted((worker.said for worker in workers), key=lambda said: said["gpu"] or "none")
    assert [worker["gpu"] for worker in said] == [FIRST, SECOND, None]
    assert [worker["found"] for worker in said] == [True, True, True]
    assert [worker["reason"] for worker in said[:2]] == [None, None]
    assert said[2]["reason"].startswith("start one worker a GPU: 2 can be seen here, and each has a worker already")


def test_the_gpu_of_a_killed_worker_is_free_at_once_though_its_child_lives_on(machine: Machine) -> None:
    first = machine.start("with-child")
    assert first.said["gpu"] == FIRST
    first.kill()
    try:
        assert machine.start().said["gpu"] == FIRST
    finally:
        os.kill(first.said["child"], signal.SIGKILL)  # and it was there until now


def test_in_a_worker_there_is_no_gpu_but_its_own_for_cuda_starts_after_the_choice(machine: Machine) -> None:
    machine.start()
    worker = machine.start(CUDA_VISIBLE_DEVICES="1,0")
    assert worker.said["visible"] == f"GPU-{SECOND}"
    assert started(machine.environment)
    assert worker.process.pid not in started(machine.environment)
    assert worker.gpus_inside() == [SECOND]
    assert worker.process.pid in started(machine.environment)


def test_the_choice_is_made_before_torch_is_there(machine: Machine, settings: Settings) -> None:
    choose = f"""
import sys
from pathlib import Path
from core.config import Settings
from worker.renderers import Renderers
renderers = Renderers(Settings(_env_file=None, data_dir=Path({str(settings.data_dir)!r})), "gpu")
print(renderers.gpu, renderers.device, *({{"torch", "diffusers", "transformers"}} & sys.modules.keys()))
"""
    said = subprocess.check_output([sys.executable, "-c", choose], cwd=ROOT, env=machine.environment, text=True)
    assert said.splitlines()[-1] == f"{FIRST} cuda"


@pytest.mark.parametrize(("visible", "taken"), [("1", [SECOND, None]), ("1,0", [SECOND, FIRST])])
def test_a_worker_chooses_among_the_gpus_that_the_operator_lets_it_see(
    machine: Machine, visible: str, taken: list[str | None]
) -> None:
    assert [machine.start(CUDA_VISIBLE_DEVICES=visible).said["gpu"] for _ in taken] == taken


def test_a_gpu_that_is_the_only_one_to_be_seen_keeps_the_name_that_it_was_given(machine: Machine) -> None:
    """It may be that of a MIG instance, which is not named like a GPU."""
    assert machine.start(CUDA_VISIBLE_DEVICES="1").said["visible"] == "1"
    assert machine.start(FAKE_GPUS=FIRST.replace("-", "")).said["visible"] is None


def test_a_worker_of_the_cpu_queue_looks_for_no_gpu(
    settings: Settings, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.see(monkeypatch)
    assert Renderers(settings, "cpu").gpu is None
    assert started(machine.environment) == set()
    assert len(visible_gpus()) == 2


@pytest.mark.parametrize("hidden", [{"CUDA_VISIBLE_DEVICES": ""}, {"FAKE_CUDA_FAILS": "100"}, {"PYTHONPATH": ""}])
def test_without_a_gpu_there_is_nothing_to_hold(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, settings: Settings, hidden: dict[str, str]
) -> None:
    machine.see(monkeypatch, **hidden)
    gpu = Gpu(settings.data_dir / "gpus")
    gpu.hold()
    assert (gpu.found, gpu.uuid) == (False, None)
    assert Renderers(settings, "gpu").device == "none"


@pytest.mark.parametrize(("code", "said"), [("999", "cuInit answers 999"), ("-1", "it ended the process that asked")])
def test_a_driver_that_fails_is_said_and_asked_again(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str, said: str
) -> None:
    """A worker whose GPU is lost must not come back to render on the CPU."""
    machine.see(monkeypatch, FAKE_CUDA_FAILS=code)
    gpu = Gpu(tmp_path / "gpus")
    with pytest.raises(EngineUnavailable, match=f"see what nvidia-smi says.*{said}"):
        gpu.hold()
    monkeypatch.delenv("FAKE_CUDA_FAILS")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    gpu.hold()
    assert (gpu.found, gpu.uuid) == (True, SECOND)


def test_a_folder_where_no_gpu_can_be_marked_is_said(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine.see(monkeypatch)
    (tmp_path / "file").touch()
    with pytest.raises(EngineUnavailable, match=r"let this worker write to .*/file/gpus/.*\.lock.*: Not a directory"):
        Gpu(tmp_path / "file" / "gpus").hold()
