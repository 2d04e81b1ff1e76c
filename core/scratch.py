"""Folders for what is in the making, in the system's temporary folder. What killed processes left is cleared."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def scratch_folder(purpose: str) -> Iterator[Path]:
    """A folder of this process, gone at the end. First clears what killed processes left for the same `purpose`."""
    for left in Path(tempfile.gettempdir()).glob(f"kinora-{purpose}-*"):
        pid = left.name.split("-")[2]
        if pid.isdigit() and not _lives(int(pid)):
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"kinora-{purpose}-{os.getpid()}-") as folder:
        yield Path(folder)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
