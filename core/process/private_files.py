"""What this service keeps on a machine is its user's alone: the ledger holds what signs links and callbacks, and the
storage what callers sent and got."""

import os
import shlex
import stat
from collections.abc import Iterable
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

NOT_ITS_USER = stat.S_IRWXG | stat.S_IRWXO


def keep_files_private() -> None:
    """Let folders that this process and its children make have the mode 0700, and files 0600. Called first by each
    process's main."""
    os.umask(NOT_ITS_USER)


def warn_of_open_places(places: Iterable[Path]) -> None:
    """Log those of `places` that others may enter, read or write. Changes nothing: an operator may have meant it so."""
    found = [str(place) for place in places if is_open(place)]
    if found:
        log.warning("open_to_other_users", places=found, remedy=shlex.join(["chmod", "-R", "go-rwx", *found]))


def is_open(place: Path) -> bool:
    try:
        return bool(place.stat().st_mode & NOT_ITS_USER)
    except OSError:  # it is not there, or not for us
        return False
