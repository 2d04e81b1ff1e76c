"""Folders for what is in the making, in the system's temporary folder. What killed processes left is cleared.

Others may write there too, so nothing of ours has a name that could be guessed, and what is not ours is left alone.
"""

import fcntl
import os
import shutil
import stat
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
    for left in filter(is_ours, Path(tempfile.gettempdir()).glob("kinora-*")):
        with suppress(OSError), (left / "lock").open("r+") as lock:  # BlockingIOError: its owner lives
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"kinora-{purpose}-"))
    with (folder / "new-lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        Path(lock.name).rename(folder / "lock")  # nobody finds it before it is locked
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def is_ours(folder: Path) -> bool:
    """Return whether it is a folder of this process's user, and no link to one."""
    try:
        found = folder.lstat()
    except OSError:  # gone meanwhile
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
