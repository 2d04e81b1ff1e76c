"""The texts of pictures in JSON, taken out of it into files while it comes in.

A picture in base64 has up to 31 MB, and whatever is done with so much at once, nobody else is answered meanwhile. So it
is never in memory as a whole: here it goes into a file in pieces, and app/intake/picture_text.py decodes it there.
"""

import codecs
import errno
import json
import re
import secrets
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from io import BytesIO
from tempfile import SpooledTemporaryFile
from typing import BinaryIO, cast

from starlette.exceptions import HTTPException

from app.strict_json import MAX_QUOTES, NO_JSON, TOO_MANY_PARTS
from app.upload_size import FORM_BYTES
from core.errors import StorageFull, UploadTooLarge
from core.text import check_text

IN_MEMORY = 1 << 16  # bytes of one text; a longer one is on disk
MAX_TEXTS = 9  # as many as a form may have files
LONGEST_ESCAPE = 6  # \u003d
AS_IT_IS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=-_"  # stands in JSON what is base64


class JsonPictures:
    """Takes JSON piece by piece. Of a text that an object has under one of `names` only what stands for it is left in
    `rest`; the text itself is what `file_of` gives for that."""

    def __init__(self, names: Collection[str]) -> None:
        self.rest = bytearray()
        self.unwritten_bytes = 0
        self._texts: dict[str, PictureText] = {}
        self._unwritten: list[PictureText] = []
        alternatives = b"|".join(re.escape(name.encode()) for name in names)
        self._named = re.compile(rb'(?<!\\)"(%s)(?:\[\])?"\s{0,20}:\s{0,20}"$' % alternatives)
        self._longest = max(map(len, names)) + 50
        self._quotes = 0
        self._in_text = self._escaped = False
        self._picture: PictureText | None = None
        """Whose text goes on."""

    def add(self, piece: bytes) -> None:
        """Raises UploadTooLarge and HTTPException for what has more beside its pictures than a request may have."""
        parts = piece.split(b'"')
        self._quotes += len(parts) - 1
        if self._quotes > MAX_QUOTES:
            raise HTTPException(400, TOO_MANY_PARTS)
        for number, part in enumerate(parts):
            if number:
                self._add_quote()
            self._add_text(part)
        if len(self.rest) > FORM_BYTES:
            raise UploadTooLarge(f"without its pictures the request may have at most {FORM_BYTES // 1024} KiB")

    def write(self) -> None:
        """Write what has come of the texts. Raises HTTPException for what JSON does not allow in one, InvalidParameter,
        and StorageFull if the temporary folder has no room."""
        with full_is_told():
            while self._unwritten:
                self._unwritten.pop().write()
        self.unwritten_bytes = 0

    def file_of(self, text: str) -> BinaryIO:
        """Return a file of the text that `text` stands for, or of `text`."""
        taken = self._texts.get(text)
        if not taken:
            return file_of_text(text)
        taken.file.seek(0)
        return cast(BinaryIO, taken.file)

    def close(self) -> None:
        for text in self._texts.values():
            text.file.close()

    def _add_quote(self) -> None:
        if self._in_text and self._escaped:
            self._add_text(b'"')
            return
        self.rest += b'"'
        self._in_text = not self._in_text
        if self._picture:
            self._picture.is_whole = True
            self._will_write(self._picture)
            self._picture = None
        elif self._in_text and (named := self._named.search(self.rest[-self._longest :])):
            if len(self._texts) == MAX_TEXTS:
                raise HTTPException(400, f"the body may have at most {MAX_TEXTS} pictures")
            stands_for_it = secrets.token_hex(16)
            self._picture = self._texts[stands_for_it] = PictureText(named[1].decode())
            self.rest += stands_for_it.encode()

    def _add_text(self, part: bytes) -> None:
        if not part:
            return
        if self._in_text:
            backslashes = len(part) - len(part.rstrip(b"\\"))
            self._escaped = (backslashes + (self._escaped and backslashes == len(part))) % 2 == 1
        if not self._picture:
            self.rest += part
            return
        self._will_write(self._picture)
        self._picture.unwritten += part
        self.unwritten_bytes += len(part)

    def _will_write(self, text: "PictureText") -> None:
        if text not in self._unwritten:
            self._unwritten.append(text)


class PictureText:
    """One text, as JSON has it between two quotes; in its file it stands as it is meant."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.file = SpooledTemporaryFile[bytes](IN_MEMORY)
        self.unwritten = bytearray()
        self.is_whole = False
        self._left = b""
        """What may be half an escape, or half a character."""

    def write(self) -> None:
        """Raises HTTPException for what JSON does not allow, and InvalidParameter for what is no text."""
        data, self._left = self._left + bytes(self.unwritten), b""
        self.unwritten.clear()
        if data.translate(None, AS_IT_IS):
            try:
                text, length = codecs.utf_8_decode(data, "strict", self.is_whole)
                end = len(text) if self.is_whole else whole_escapes(text)
                self._left = text[end:].encode() + data[length:]
                meant = json.loads(f'"{text[:end]}"')
            except ValueError as error:
                raise HTTPException(400, NO_JSON) from error
            check_text(self.name, meant)
            data = meant.encode()
        self.file.write(data)


@contextmanager
def full_is_told() -> Iterator[None]:
    """Raises StorageFull where the system says that there is no room."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StorageFull("the temporary folder is full") from error


def file_of_text(text: str) -> BinaryIO:
    return BytesIO(text.encode())


def whole_escapes(text: str) -> int:
    """Return where `text` ends before an escape of JSON that may be unfinished."""
    last = text.rfind("\\", max(0, len(text) - LONGEST_ESCAPE))
    if last < 0:
        return len(text)
    backslashes = last + 1 - len(text[: last + 1].rstrip("\\"))
    return last if backslashes % 2 else len(text)
