"""The one NVIDIA GPU that this process renders on: the first that it may see and no other worker holds.

CUDA reads CUDA_VISIBLE_DEVICES once, as it starts in a process. So a child asks the driver which GPUs there are, and
this process names its own one there before anything in it starts CUDA. Whoever shares DATA_DIR is "another worker".
"""

import ctypes
import fcntl
import os
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import structlog

from core.errors import EngineUnavailable

ROOT = Path(__file__).parents[2]

# What cuInit answers if there is nothing to start: a library without a driver, a driver without a GPU.
NO_GPU = (34, 100)

# What else it answers, by the CUDA driver API's table of CUresult, and what mends it.
REMEDIES = {
    46: "another process has the GPU for itself: nvidia-smi -c DEFAULT",
    802: "start nvidia-fabricmanager, without which GPUs that are joined by NVSwitch do not start",
    803: "restart the machine, or this container: the driver was updated, and its older kernel module still runs",
    804: "remove CUDA's compatibility libraries (cuda-compat), which this GPU does not take, and update the driver",
    999: "load the kernel module nvidia_uvm: nvidia-modprobe -u",
}

KERNEL_GPUS = Path("/proc/driver/nvidia/gpus")
"""A folder for each GPU of which the kernel has the driver loaded, in every container of the machine too."""
HIDDEN = ("", "-1", "NoDevFiles")
"""Values of CUDA_VISIBLE_DEVICES by which an operator says that no GPU is to be used."""

log = structlog.get_logger(__name__)


class Gpu:
    def __init__(self, folder: Path) -> None:
        """In `folder` lies a file for each GPU; whoever works on it has it locked."""
        self.folder = folder
        self.found = False
        """Whether there is any GPU here, held or not, and whether it works or not."""
        self.uuid: str | None = None

    def hold(self) -> None:
        """Take a GPU, for as long as this process lives. Does nothing if one is held already, or none is here.

        Raises EngineUnavailable if others hold each of them, or if the driver fails or cannot be reached.
        """
        if self.uuid:
            return
        self.found = True
        uuids = visible_gpus()
        self.found = bool(uuids)
        if not uuids:
            return
        self.uuid = next(filter(self._take, uuids), None)
        if self.uuid is None:
            raise EngineUnavailable(
                f"start one worker a GPU: {len(uuids)} can be seen here, and each has a worker already; "
                "this one takes over if one falls free"
            )
        if len(uuids) > 1:  # one alone is cuda:0 by whatever name it was given, that of a MIG instance too
            os.environ["CUDA_VISIBLE_DEVICES"] = f"GPU-{self.uuid}"
        log.info("gpu_held", gpu=self.uuid)

    def _take(self, uuid: str) -> bool:
        """False if another process has it. The kernel unlocks the file however this process ends."""
        path = self.folder / f"{uuid}.lock"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.folder.chmod(0o700)  # older versions let others in: whoever may open a lock can hold it
            # No child inherits it, and nothing closes it.
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError as exc:
            reason = f"let this worker write to {path}, by which it holds its GPU: {exc.strerror}"
            raise EngineUnavailable(reason) from exc
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return False
        return True


def visible_gpus() -> list[str]:
    """Return their UUIDs, in the order of CUDA_VISIBLE_DEVICES.

    Raises EngineUnavailable if the driver fails, or if the machine has a GPU that this process cannot reach.
    """
    asked = subprocess.run(
        [sys.executable, "-m", "worker.engines.gpu"], stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=ROOT
    )
    if asked.returncode:
        said = asked.stderr.strip().splitlines()[-1:] or [f"it ended the process that asked ({asked.returncode})"]
        raise EngineUnavailable(f"see what nvidia-smi says, for the NVIDIA driver fails here: {said[0]}")
    uuids = asked.stdout.split()
    if not uuids and is_out_of_reach():
        raise EngineUnavailable(
            "let this process reach the machine's NVIDIA GPU: a container takes the NVIDIA Container Toolkit and a "
            "share of the GPUs (docker run --gpus all), any other process the driver's libcuda.so.1; or name a GPU "
            "that is here in CUDA_VISIBLE_DEVICES, or none with CUDA_VISIBLE_DEVICES= to render on the CPU"
        )
    return uuids


def is_out_of_reach() -> bool:
    """Return whether the kernel has a GPU that CUDA does not show, though nobody has hidden it."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in HIDDEN
    return not hidden and KERNEL_GPUS.is_dir() and any(KERNEL_GPUS.iterdir())


def driver_cuda() -> tuple[int, int] | None:
    """Return the newest version of CUDA that the driver here can run, as (12, 8); None if there is no driver.

    Asking does not start CUDA.
    """
    version = ctypes.c_int()
    try:
        ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    except OSError:
        return None
    return version.value // 1000, version.value % 1000 // 10


def ask_driver() -> list[str]:
    """Start CUDA in this process and return the GPUs' UUIDs. torch would answer as well, after seconds."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return []
    code = driver.cuInit(0)
    if code in NO_GPU:
        return []
    if code:
        remedy = REMEDIES.get(code)
        sys.exit(f"cuInit answers {code}" + (f"; {remedy}" if remedy else ""))
    count = ctypes.c_int()
    driver.cuDeviceGetCount(ctypes.byref(count))
    return [uuid_of(driver, ordinal) for ordinal in range(count.value)]


def uuid_of(driver: ctypes.CDLL, ordinal: int) -> str:
    """Of a MIG instance its own: cuDeviceGetUuid without the 2 would give that of the whole GPU."""
    device, uuid = ctypes.c_int(), ctypes.create_string_buffer(16)
    driver.cuDeviceGet(ctypes.byref(device), ordinal)
    driver.cuDeviceGetUuid_v2(uuid, device)
    return str(UUID(bytes=uuid.raw))


if __name__ == "__main__":
    print(*ask_driver(), sep="\n")  # noqa: T201 - its answer
