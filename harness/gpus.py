"""NVIDIA GPUs where there are none: the environment in which Python processes find a driver of our own.

What is no Python asks the machine's real driver, if there is one."""

from pathlib import Path

FAKE = Path(__file__).parent / "fake_cuda"
FIRST, SECOND = "00000000-0000-4000-8000-000000000001", "f0000000-0000-4000-8000-000000000002"


def environment_with_gpus(folder: Path, *uuids: str) -> dict[str, str]:
    """For processes that are to see these GPUs. Which of them started the driver, `started` tells."""
    (folder / "cuda").mkdir(parents=True)
    return {
        "PYTHONPATH": str(FAKE),
        "FAKE_GPUS": ",".join(uuid.replace("-", "") for uuid in uuids),
        "FAKE_CUDA_STARTED": str(folder / "cuda"),
    }


def started(environment: dict[str, str]) -> set[int]:
    """The ids of the processes that started the driver."""
    return {int(left.name) for left in Path(environment["FAKE_CUDA_STARTED"]).iterdir()}
