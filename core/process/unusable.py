"""How a process ends that could never work: with one line that names the setting, and no traceback."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from core.errors import Unusable

EXIT_UNUSABLE = 78  # EX_CONFIG


@contextmanager
def ends_if_unusable() -> Iterator[None]:
    try:
        yield
    except Unusable as error:
        say(error)
        sys.exit(EXIT_UNUSABLE)


def say(error: Unusable) -> None:
    sys.stderr.write(f"kinora: {error}\n")
    sys.stderr.flush()
