"""A stream of zlib's, encoded anew as it is read: its header, its check sum, and what is behind the bytes that are
wanted are of no account."""

import io
import zlib
from typing import BinaryIO, cast

from core.errors import ImageUnreadable

PIECE_BYTES = 1 << 16


class Mended(io.RawIOBase):
    """Is read once, from its beginning."""

    def __init__(self, stream: BinaryIO, wanted: int) -> None:
        """`wanted`: how many bytes the stream holds."""
        self._stream, self._wanted = stream, wanted
        stream.read(2)  # the header
        self._decompress, self._compress = zlib.decompressobj(-zlib.MAX_WBITS), zlib.compressobj(0)
        self._made = b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Stay at the beginning, which a decoder of Pillow's asks for."""
        return 0

    def readinto(self, buffer: object) -> int:
        """Raises ImageUnreadable if there are fewer bytes than wanted, zlib.error if they are broken."""
        into = cast(memoryview, buffer)
        while self._wanted and not self._made:
            self._made = self._next()
        piece, self._made = self._made[: len(into)], self._made[len(into) :]
        into[: len(piece)] = piece
        return len(piece)

    def _next(self) -> bytes:
        left = self._decompress.unconsumed_tail or self._stream.read(PIECE_BYTES)
        piece = self._decompress.decompress(left, min(self._wanted, PIECE_BYTES))
        if not (left or piece) or (self._decompress.eof and len(piece) < self._wanted):
            raise ImageUnreadable("file is cut off: the picture in it is not complete", param="file")
        self._wanted -= len(piece)
        return self._compress.compress(piece) + (b"" if self._wanted else self._compress.flush())
