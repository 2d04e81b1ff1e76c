"""Whether torch can use the GPU that this worker has found, and what to do if it cannot."""

import warnings

import structlog
import torch

from core.errors import EngineUnavailable
from worker.engines.gpu import driver_cuda

# The oldest driver on Linux that runs programs of a CUDA, by its major version: NVIDIA's "CUDA Compatibility", minor
# version compatibility.
OLDEST_DRIVERS = {11: 450, 12: 525, 13: 580}

SHARED_BYTES = 2 * 2**30
"""Of a GPU's memory: more than a desktop and this process's own beginnings take."""

log = structlog.get_logger(__name__)


def choose_device(found_gpu: bool) -> str:
    """Return "cuda", or "cpu" if there is no GPU.

    Raises EngineUnavailable if there is a GPU (`found_gpu`) and torch cannot use it: what takes a GPU seconds takes a
    CPU hours, so nobody who has a GPU wants the CPU in its place.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of a driver that is too old; the error below says it
        is_there = torch.cuda.is_available()
    if is_there:
        check_architecture()
        return "cuda"
    if found_gpu:
        raise EngineUnavailable(what_torch_lacks())
    return "cpu"


def what_torch_lacks() -> str:
    """Return why torch sees no GPU though there is one, with what to do."""
    if torch.version.cuda is None:
        return (
            f"install the torch that is built for CUDA, as requirements/svd.txt does: torch {torch.__version__} knows "
            "no GPU, and this machine has one"
        )
    wanted, offered = as_version(torch.version.cuda), driver_cuda()
    if offered and offered[0] < wanted[0]:
        driver = OLDEST_DRIVERS.get(wanted[0])
        newer = f"to {driver} or newer" if driver else "to a newer one"
        return (
            f"update the NVIDIA driver {newer}: this torch is built for CUDA {wanted[0]}.{wanted[1]}, and the driver "
            f"here runs programs of CUDA {offered[0]}.{offered[1]} at most"
        )
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as exc:
        reason = str(exc).splitlines()[0]
    else:
        reason = "it counts none"
    return f"see what nvidia-smi says, for torch cannot use the GPU here: {reason}"


def check_architecture() -> None:
    """Raises EngineUnavailable if torch has no program for the GPU."""
    major, minor = torch.cuda.get_device_capability()
    programs = torch.cuda.get_arch_list()
    if not any(runs_on(program, major, minor) for program in programs):
        oldest, newest = (as_capability(ends) for ends in (programs[0], programs[-1]))
        raise EngineUnavailable(
            f"use a GPU of another generation: {torch.cuda.get_device_name()} has compute capability {major}.{minor}, "
            f"and torch {torch.__version__} holds programs for {oldest[0]}.{oldest[1]} to {newest[0]}.{newest[1]} alone"
        )


def runs_on(program: str, major: int, minor: int) -> bool:
    """Return whether the GPU's capability can run `program`, "sm_86" or "compute_90".

    A binary (sm) runs on later GPUs of its generation, PTX (compute) on all later ones: CUDA C++ Programming Guide,
    "Application Compatibility".
    """
    made_for = as_capability(program)
    if program.startswith("compute"):
        return made_for <= (major, minor)
    return made_for[0] == major and made_for[1] <= minor


def as_capability(program: str) -> tuple[int, int]:
    """Return the capability that `program` is made for: "sm_86" gives (8, 6), "sm_120a" (12, 0)."""
    digits = "".join(filter(str.isdigit, program))
    return int(digits[:-1]), int(digits[-1])


def warn_of_others() -> None:
    """Log that other programs hold much of this process's GPU, by what torch itself does not hold of it. Another
    service's lock is not seen here."""
    free, total = torch.cuda.mem_get_info()
    others = total - free - torch.cuda.memory_reserved()
    if others > SHARED_BYTES:
        log.warning("gpu_shared", others_gb=round(others / 2**30, 1), of_gb=round(total / 2**30, 1))


def gpu_versions() -> dict[str, str]:
    """Return what of a GPU decides how its results are rounded: its name and generation, and its libraries."""
    major, minor = torch.cuda.get_device_capability()
    return {
        "gpu": f"{torch.cuda.get_device_name()} ({major}.{minor})",
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),
    }


def as_version(words: str) -> tuple[int, int]:
    major, minor = words.split(".")[:2]
    return int(major), int(minor)
