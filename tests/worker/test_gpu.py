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
from structlog.testing import capture_logs

from core.config.settings import Settings
from core.errors import EngineUnavailable
from harness.gpus import FIRST, SECOND, environment_with_gpus, started
from harness.stack import ROOT
from worker.engines.gpu import Gpu, visible_gpus
from worker.engines.host import EngineHost

# What a worker does before it loads its engine. Then it waits, and at last starts CUDA, as its engine would.
WORKER = """
import json, os, subprocess, sys
from pathlib import Path
from core.errors import EngineUnavailable
from core.process.logs import set_up_logs
from worker.engines.gpu import Gpu, ask_driver

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
from core.config.settings import Settings
from worker.engines.host import EngineHost
engine_host = EngineHost(Settings(_env_file=None, data_dir=Path({str(settings.data_dir)!r})), "gpu")
print(engine_host.gpu, engine_host.device, *({{"torch", "diffusers", "transformers"}} & sys.modules.keys()))
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
    assert EngineHost(settings, "cpu").gpu is None
    assert started(machine.environment) == set()
    assert len(visible_gpus()) == 2


@pytest.mark.parametrize(
    "hidden", [{"CUDA_VISIBLE_DEVICES": ""}, {"FAKE_CUDA_FAILS": "100"}, {"FAKE_CUDA_FAILS": "-2"}]
)
def test_without_a_gpu_there_is_nothing_to_hold(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, settings: Settings, hidden: dict[str, str]
) -> None:
    machine.see(monkeypatch, **hidden)
    gpu = Gpu(settings.data_dir / "gpus")
    gpu.hold()
    assert (gpu.found, gpu.uuid) == (False, None)
    assert EngineHost(settings, "gpu").device == "none"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("1", "cuInit answers 1$"),
        ("802", "cuInit answers 802; start nvidia-fabricmanager"),
        ("803", "cuInit answers 803; restart the machine"),
        ("999", "cuInit answers 999; load the kernel module nvidia_uvm"),
        ("-1", "it ended the process that asked"),
    ],
)
def test_a_driver_that_fails_is_said_and_asked_again(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str, said: str
) -> None:
    """A worker whose GPU is lost must not come back to render on the CPU."""
    machine.see(monkeypatch, FAKE_CUDA_FAILS=code)
    gpu = Gpu(tmp_path / "gpus")
    with pytest.raises(EngineUnavailable, match=f"see what nvidia-smi says.*{said}"):
        gpu.hold()
    assert gpu.found
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


def test_no_other_user_can_hold_a_gpus_lock(machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Who may open the file, be it to read, can lock it."""
    machine.see(monkeypatch)
    older = tmp_path / "gpus"
    older.mkdir(mode=0o755)
    (older / f"{FIRST}.lock").touch(mode=0o644)
    gpu = Gpu(older)
    gpu.hold()
    assert gpu.uuid == FIRST
    assert older.stat().st_mode & 0o777 == 0o700
    newer = Gpu(tmp_path / "new" / "gpus")
    newer.hold()
    assert (tmp_path / "new" / "gpus").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "new" / "gpus" / f"{newer.uuid}.lock").stat().st_mode & 0o777 == 0o600


def test_a_link_in_the_place_of_a_lock_makes_no_file_elsewhere(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine.see(monkeypatch, CUDA_VISIBLE_DEVICES="0")
    (tmp_path / "gpus").mkdir()
    (tmp_path / "gpus" / f"{FIRST}.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EngineUnavailable, match=r"let this worker write to .*\.lock, .*: Too many levels of symb"):
        Gpu(tmp_path / "gpus").hold()
    assert not (tmp_path / "elsewhere").exists()


# A GPU that is there, and that this process cannot use: never a reason to render on the CPU, or to make previews


@pytest.mark.parametrize(
    "seen", [{"FAKE_CUDA_FAILS": fails} for fails in ("100", "34", "-2")] + [{"CUDA_VISIBLE_DEVICES": "7"}]
)
def test_a_container_without_the_toolkit_is_told_what_it_lacks(
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    settings: Settings,
    seen: dict[str, str],
) -> None:
    (tmp_path / "kernel" / "0000:01:00.0").mkdir(parents=True)
    monkeypatch.setattr("worker.engines.gpu.KERNEL_GPUS", tmp_path / "kernel")
    machine.see(monkeypatch, **seen)
    host = EngineHost(settings, "gpu")
    with pytest.raises(EngineUnavailable, match="let this process reach the machine's NVIDIA GPU: a container takes"):
        host.preload()
    assert host.device == "cuda"
    assert not any(engine["ready"] for engine in host.report().values())


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_who_hides_the_gpu_wants_the_cpu(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hidden: str
) -> None:
    (tmp_path / "kernel" / "0000:01:00.0").mkdir(parents=True)
    monkeypatch.setattr("worker.engines.gpu.KERNEL_GPUS", tmp_path / "kernel")
    machine.see(monkeypatch, CUDA_VISIBLE_DEVICES=hidden)
    gpu = Gpu(tmp_path / "gpus")
    gpu.hold()
    assert not gpu.found


PRELOAD = """
import json, os, sys
from pathlib import Path
import torch
from core.config.settings import Settings
from core.errors import EngineUnavailable
from worker.engines.host import EngineHost

host = EngineHost(Settings(_env_file=None, data_dir=Path(sys.argv[1]), engine="svd-xt", model_id="/nowhere"), "gpu")
for os.environ["FAKE_CUDA_VERSION"], torch.version.cuda in json.loads(sys.argv[2]):
    try:
        host.preload()
    except EngineUnavailable as error:
        report = host.report()["svd-xt"]
        said = {"error": error.message, "same": report["reason"] == error.message, "ready": report["ready"]}
        print(json.dumps(said | {"device": host.device, "gpu": host.gpu}))
"""
UNUSABLE = {
    (
        "12080",
        "13.0",
    ): "update the NVIDIA driver to 580 or newer: this torch is built for CUDA 13.0, and the driver here "
    "runs programs of CUDA 12.8 at most",
    ("11040", "12.6"): "update the NVIDIA driver to 525 or newer: this torch is built for CUDA 12.6",
    ("13000", "14.1"): "update the NVIDIA driver to a newer one: this torch is built for CUDA 14.1",
    ("13000", None): "install the torch that is built for CUDA, as requirements/svd.txt does: torch 2.",
    ("13000", "13.2"): "see what nvidia-smi says, for torch cannot use the GPU here: Torch not compiled with CUDA",
}
"""By the driver's version, and by the CUDA that torch is built for."""


def test_a_gpu_that_torch_cannot_use_is_said_and_nothing_is_rendered_without_it(
    machine: Machine, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    command = [sys.executable, "-c", PRELOAD, str(tmp_path / "data"), json.dumps(list(UNUSABLE))]
    done = subprocess.run(command, cwd=ROOT, env=machine.environment, capture_output=True, text=True, timeout=120)
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    for each, said in zip(found, UNUSABLE.values(), strict=True):
        assert each.pop("error").startswith(said)
        assert each == {"same": True, "ready": False, "device": "cuda", "gpu": FIRST}


WHEELS = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]
"""What torch 2.13 for CUDA 13.0 has programs for."""


@pytest.mark.parametrize(
    ("capability", "runs"),
    [
        ((7, 0), False),
        ((6, 1), False),
        ((7, 5), True),
        ((8, 9), True),
        ((9, 0), True),
        ((11, 0), False),
        ((12, 1), True),
    ],
)
def test_a_gpu_for_which_torch_has_no_programs_is_refused(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], runs: bool
) -> None:
    torch = pytest.importorskip("torch")
    from worker.engines.cuda import choose_device

    answers = {"is_available": True, "get_device_capability": capability, "get_arch_list": WHEELS}
    for name, answer in (answers | {"get_device_name": "Tesla V100"}).items():
        monkeypatch.setattr(torch.cuda, name, lambda answer=answer: answer)
    if runs:
        assert choose_device(True) == "cuda"
        return
    with pytest.raises(EngineUnavailable) as caught:
        choose_device(True)
    major, minor = capability
    assert caught.value.message == (
        f"use a GPU of another generation: Tesla V100 has compute capability {major}.{minor}, and torch "
        f"{torch.__version__} holds programs for 7.5 to 12.0 alone"
    )


def test_without_a_gpu_the_cpu_renders() -> None:
    pytest.importorskip("torch")
    from worker.engines.cuda import choose_device

    assert choose_device(False) == "cpu"


@pytest.mark.parametrize(
    ("free", "reserved", "said"), [(22.5, 0, []), (22, 0, []), (10, 12, []), (10, 2, [12.0]), (4, 0, [20.0])]
)
def test_that_another_service_has_the_gpu_too_is_said(
    monkeypatch: pytest.MonkeyPatch, free: float, reserved: int, said: list[float]
) -> None:
    """Its lock lies in a folder of its own, so that this worker takes the same GPU."""
    torch = pytest.importorskip("torch")
    from worker.engines.cuda import warn_of_others

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (int(free * 2**30), 24 * 2**30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: reserved * 2**30)
    with capture_logs() as logs:
        warn_of_others()
    assert [line["others_gb"] for line in logs if line["event"] == "gpu_shared"] == said


def test_a_receipt_says_which_gpu_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    from worker.engines.cuda import gpu_versions

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    assert gpu_versions().items() >= {"gpu": "NVIDIA H200 (9.0)"}.items()
    assert set(gpu_versions()) == {"gpu", "cuda", "cudnn"}
