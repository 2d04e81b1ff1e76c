"""Pieces of a file, read as one file without a copy of them."""

import io
from collections.abc import Sequence
from typing import cast


def chained(parts: Sequence[memoryview]) -> io.BufferedReader:
    return io.BufferedReader(Chained(parts))


class Chained(io.RawIOBase):
    def __init__(self, parts: Sequence[memoryview]) -> None:
        self._parts = parts
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: sum(map(len, self._parts))}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readinto(self, buffer: object) -> int:
        into, skip, filled = cast(memoryview, buffer), self._at, 0
        for part in self._parts:
            piece = part[skip : skip + len(into) - filled]
            skip = max(0, skip - len(part))
            into[filled : filled + len(piece)] = piece
            filled += len(piece)
        self._at += filled
        return filled
