"""Which of three things an exception of torch on a GPU means: memory ran out, the GPU is lost to this process, or this
one computation failed.

Each of them comes under many names, since an error is named by the library that met it first: torch's allocator,
cuBLAS, cuDNN, triton or the driver.
"""

import re
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum

import torch

from core.errors import EngineFailed, GpuLost, OutOfMemory
from worker.engines.causes import causes, first_line

MEMORY_ALLOCATION = 2
"""cudaErrorMemoryAllocation, which leaves the GPU as it was."""

# What memory that ran out is called, but for torch.OutOfMemoryError: by the driver and triton (as a kernel is loaded),
# by cuBLAS and cuDNN (as they ask for a handle).
NAMES_OF_NO_MEMORY = re.compile(
    r"CUDA[^\n]*: out of memory|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED"
    r"|CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"
)
NO_ENGINE = "unable to find an engine to execute this computation"
"""Of cuDNN, if no algorithm's workspace fits; or if it has none for what was asked."""
LITTLE = 1 / 8
"""Of the GPU's memory."""


class Fault(Enum):
    MEMORY = "memory"
    LOST = "lost"
    FAILED = "failed"


def fault_of(exc: BaseException) -> Fault:
    """Return what `exc`, or what it came of, means. Asks the GPU whether it still works."""
    if any(is_out_of_memory(cause) for cause in causes(exc)):
        return Fault.MEMORY
    return Fault.FAILED if still_works() else Fault.LOST


def is_out_of_memory(exc: BaseException) -> bool:
    """Return whether `exc` says, by one of its names, that the GPU's memory ran out."""
    if isinstance(exc, torch.OutOfMemoryError | OutOfMemory):
        return True
    if isinstance(exc, torch.AcceleratorError) and getattr(exc, "error_code", None) == MEMORY_ALLOCATION:
        return True
    if not isinstance(exc, RuntimeError):
        return False
    return bool(NAMES_OF_NO_MEMORY.search(str(exc))) or (NO_ENGINE in str(exc) and little_is_free())


def little_is_free() -> bool:
    """Return whether the GPU has so little memory left that a workspace may not have fitted."""
    if not torch.cuda.is_initialized():
        return False
    free, total = torch.cuda.mem_get_info()
    idle = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return bool(free + idle < LITTLE * total)


def still_works() -> bool:
    """Return whether the GPU takes work from this process; after a sticky fault each call on it fails again."""
    if not torch.cuda.is_initialized():
        return True
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True


@contextmanager
def told_apart(doing: Callable[[], str], too_large: Callable[[], str]) -> Iterator[None]:
    """Turn what torch raises within into OutOfMemory, after which the next work is right; GpuLost, after which nothing
    works in this process; or EngineFailed.

    `doing` returns what failed, as "the phase decode"; `too_large` returns what would need less memory.
    """
    try:
        yield
    except RuntimeError as exc:
        fault = fault_of(exc)
        if fault is Fault.MEMORY:
            give_back(exc)
            raise OutOfMemory(too_large()) from exc
        if fault is Fault.LOST:
            raise GpuLost(f"the GPU failed in {doing()}: {first_line(exc)}") from exc
        raise EngineFailed(f"torch failed in {doing()}: {first_line(exc)}") from exc


def give_back(exc: BaseException) -> None:
    """Free the GPU's memory that the frames of `exc` hold, which live for as long as it is kept, and what lies idle."""
    for cause in causes(exc):
        traceback.clear_frames(cause.__traceback__)
    torch.cuda.empty_cache()
