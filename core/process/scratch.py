"""Folders for what is in the making, in the system's temporary folder. What killed processes left is cleared."""

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def scratch_folder(purpose: str) -> Iterator[Path]:
    """Yield a folder of this process, empty but for its lock and gone at the end. First clears what killed processes
    left.

    A living owner holds a lock: process ids would not tell, for containers that share the folder count their own.
    """
    for left in Path(tempfile.gettempdir()).glob("kinora-*"):
        with suppress(OSError), (left / "lock").open("r+") as lock:  # BlockingIOError: its owner lives
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left, ignore_errors=True)
    made = Path(tempfile.mkdtemp(prefix=f".kinora-{purpose}-"))
    folder = made.with_name(made.name.removeprefix("."))
    with (made / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made.rename(folder)  # nobody finds it before it is locked
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
