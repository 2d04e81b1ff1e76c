"""Gives each Python process that has this folder on its PYTHONPATH the few calls of libcuda.so.1 by which GPUs are
counted and named.

There are as many as FAKE_GPUS has UUIDs (32 hex digits each, with commas). CUDA_VISIBLE_DEVICES is read as NVIDIA
documents it, once, in cuInit: indices, or GPU-… and the beginning of a UUID; what follows an entry that fits nothing is
not seen. FAKE_CUDA_FAILS is what cuInit answers; -1 crashes, and with -2 there is no driver. FAKE_CUDA_VERSION is the
newest CUDA that the driver runs, as cuDriverGetVersion has it (12080 is 12.8). Each process that starts it leaves an
empty file of its id in FAKE_CUDA_STARTED.
"""

import ctypes
import os
from pathlib import Path
from typing import Any

NO_DEVICE = 100
seen: list[bytes] | None = None


def words(name: str) -> list[str]:
    return [word for word in os.environ.get(name, "").split(",") if word]


class Driver:
    """What a process has of it: C calls, which answer 0 and write to where their arguments point."""

    def cuInit(self, flags: int) -> int:
        global seen
        fails = int(os.environ.get("FAKE_CUDA_FAILS", "0"))
        if fails == -1:
            os.abort()
        if fails:
            return fails
        if seen is None:
            (Path(os.environ["FAKE_CUDA_STARTED"]) / str(os.getpid())).touch()
            seen = visible(words("FAKE_GPUS"))
        return 0 if seen else NO_DEVICE

    def cuDriverGetVersion(self, version: Any) -> int:
        version._obj.value = int(os.environ.get("FAKE_CUDA_VERSION", "13000"))
        return 0

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = len(seen or [])
        return 0

    def cuDeviceGet(self, device: Any, ordinal: int) -> int:
        device._obj.value = ordinal
        return 0

    def cuDeviceGetUuid_v2(self, uuid: Any, device: Any) -> int:
        uuid.raw = (seen or [])[device.value]
        return 0


def visible(there: list[str]) -> list[bytes]:
    """Return the UUIDs of the GPUs among `there` that CUDA_VISIBLE_DEVICES names, in its order."""
    if "CUDA_VISIBLE_DEVICES" not in os.environ:
        return [bytes.fromhex(each) for each in there]
    found = []
    for entry in words("CUDA_VISIBLE_DEVICES"):
        digits = entry.removeprefix("GPU-").replace("-", "")
        by_name = [each for each in there if each.startswith(digits)] if entry.startswith("GPU-") else []
        by_index = [there[int(entry)]] if entry.isdigit() and int(entry) < len(there) else []
        if not by_name + by_index:
            break
        found.append(bytes.fromhex((by_name + by_index)[0]))
    return found


class Libraries(ctypes.CDLL):
    """ctypes.CDLL, but for the one library."""

    def __new__(cls, name: str | None, *arguments: Any, **options: Any) -> Any:
        if name != "libcuda.so.1":
            return ctypes_CDLL(name, *arguments, **options)
        if os.environ.get("FAKE_CUDA_FAILS") == "-2":
            raise OSError("libcuda.so.1: cannot open shared object file: No such file or directory")
        return Driver()


ctypes_CDLL, ctypes.CDLL = ctypes.CDLL, Libraries  # type: ignore[misc] # to take a class's place is the purpose
