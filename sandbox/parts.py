"""How many parts a file may have, whatever is in them: to go through the smallest that fit into one takes seconds."""

from collections.abc import Callable, Iterator
from functools import wraps
from typing import TypeVar

from core.errors import ImageUnreadable

MAX_PARTS = 100_000  # a camera's largest file has a few thousand

Part = TypeVar("Part")


def few_parts(parts_of: Callable[[bytes], Iterator[Part]]) -> Callable[[bytes], Iterator[Part]]:
    """Return what yields the same of a file, and raises ImageUnreadable if it has too many parts."""

    @wraps(parts_of)
    def few(data: bytes) -> Iterator[Part]:
        for number, part in enumerate(parts_of(data)):
            if number == MAX_PARTS:
                raise ImageUnreadable(f"file has more than {MAX_PARTS} parts: no picture needs so many", param="file")
            yield part

    return few
