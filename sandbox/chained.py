"""Pieces of a file, read as one file without a copy of them."""

import io
from bisect import bisect
from collections.abc import Sequence
from itertools import accumulate
from typing import cast


def chained(parts: Sequence[memoryview]) -> io.BufferedReader:
    return io.BufferedReader(Chained(parts))


class Chained(io.RawIOBase):
    def __init__(self, parts: Sequence[memoryview]) -> None:
        self._parts = [part for part in parts if part]
        self._starts = list(accumulate(map(len, self._parts), initial=0))
        """Of each part, and where the last one ends."""
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._starts[-1]}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readinto(self, buffer: object) -> int:
        """Read to the end of a part at most."""
        into, index = cast(memoryview, buffer), bisect(self._starts, self._at) - 1
        if index == len(self._parts):
            return 0
        begin = self._at - self._starts[index]
        piece = self._parts[index][begin : begin + len(into)]
        into[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)
