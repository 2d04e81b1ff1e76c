"""NVIDIA GPUs where there are none: a libcuda of our own, and the environment in which processes find it."""

import subprocess
from pathlib import Path

SOURCE = Path(__file__).parent / "fake_cuda.c"
FIRST, SECOND = "00000000-0000-4000-8000-000000000001", "f0000000-0000-4000-8000-000000000002"


def environment_with_gpus(folder: Path, *uuids: str) -> dict[str, str]:
    """For processes that are to see these GPUs. Which of them started the driver, `started` tells."""
    (folder / "cuda" / "started").mkdir(parents=True)
    library = folder / "cuda" / "libcuda.so.1"
    subprocess.run(["gcc", "-Wall", "-Werror", "-shared", "-fPIC", "-o", library, SOURCE], check=True)
    return {
        "LD_LIBRARY_PATH": str(library.parent),
        "FAKE_GPUS": ",".join(uuid.replace("-", "") for uuid in uuids),
        "FAKE_CUDA_STARTED": str(library.parent / "started"),
    }


def started(environment: dict[str, str]) -> set[int]:
    """The ids of the processes that started the driver."""
    return {int(left.name) for left in Path(environment["FAKE_CUDA_STARTED"]).iterdir()}
