"""A picture as text: base64, a `data:` URL, or the URL of one, in a file."""

import binascii
import io
import re
from typing import BinaryIO

from pybase64 import b64decode

from core.errors import InvalidParameter
from core.outbound import check_length
from core.text import check_text

PIECE_BYTES = 1 << 18  # a quarter of a millisecond; binascii would hold Python's lock for three times as long
EDGE_BYTES = 1000  # of the beginning and of the end, in which what stands around a picture is looked for
WEB_URL = re.compile(rb"https?://", re.IGNORECASE)
DATA_URL = re.compile(rb"data:([^,]{0,200}; *base64 *,)?", re.IGNORECASE)
# How some clients wrap a URL; not read as JSON, which a large one would make expensive.
OBJECT = re.compile(rb'{\s*"image_url"\s*:\s*"'), re.compile(rb'"\s*}$')
# What stands around a text that was written out with its quotes; Python's bytes have a b before them.
QUOTES = ((b"b'", b"'"), (b'b"', b'"'), (b"'", b"'"), (b'"', b'"'))
# What of base64 a URL writes in another way, and a text that was JSON before. Nothing else is unescaped.
ESCAPED = {b"%2B": b"+", b"%2F": b"/", b"%3D": b"=", b"%0A": b"", b"%0D": b"", b"%20": b"", b"\\/": b"/"}
UNFINISHED = re.compile(rb"(%.?|\\)$", re.DOTALL)
URL_SAFE = bytes.maketrans(b"-_", b"+/")
SPACES = b"\r\n \t\f"


def decode_text(file: BinaryIO, param: str) -> str | None:
    """Return the URL in a text. Any other that is base64 is decoded into the place where it stands, in pieces; what is
    none is left as it is. Raises InvalidParameter for a URL that is too long or no UTF-8, for a `data:` URL without
    base64 that can be read, and for base64 that is found to be broken when its beginning has been decoded."""
    text = Span(file)
    text.without_quotes()
    text.without_object()
    if WEB_URL.match(text.head.replace(b"\\/", b"/")):
        return url_in(text, param)
    head = DATA_URL.match(text.head[:300])
    if head and not head[1]:
        cut = " and has no data: curl cuts a value of -F at its semicolon, give it by --form-string"
        message = f"{param} holds a data: URL that is not in base64" + ("" if b"," in text.head else cut)
        raise InvalidParameter(message, param=param)
    if head:
        text.begin += head.end()
        text.without_quotes()
    try:
        decode(text)
    except binascii.Error as error:
        if head or text.written:
            what = "a data: URL whose base64 is broken" if head else "base64 that is broken"
            raise InvalidParameter(f"{param} holds {what}", param=param) from error
    return None


def url_in(text: "Span", param: str) -> str | None:
    """None: an object that holds more is none. Raises InvalidParameter for what is too long, or no UTF-8."""
    check_length(text.end - text.begin, param)  # before all of it is read
    url = text.read(text.end - text.begin).decode(errors="surrogateescape")
    check_text(param, url)
    if not text.is_in_object:
        return url
    return None if '"' in url else url.replace("\\/", "/")


class Span:
    """What of a file is looked at."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.begin, self.end = 0, file.seek(0, io.SEEK_END)
        self.is_in_object = False
        self.written = 0
        """Bytes at the beginning of the file that are what was decoded."""

    @property
    def head(self) -> bytes:
        return self.read(EDGE_BYTES)

    @property
    def tail(self) -> bytes:
        self.file.seek(max(self.begin, self.end - EDGE_BYTES))
        return self.file.read(self.end - self.file.tell())

    def read(self, most: int) -> bytes:
        self.file.seek(self.begin)
        return self.file.read(min(most, self.end - self.begin))

    def without_spaces(self) -> None:
        self.begin += len(self.head) - len(self.head.lstrip())
        self.end -= len(self.tail) - len(self.tail.rstrip())

    def without_quotes(self) -> None:
        """And without the spaces around them."""
        self.without_spaces()
        for opening, closing in QUOTES:
            if self.end - self.begin > len(opening) and self.head.startswith(opening) and self.tail.endswith(closing):
                self.begin, self.end = self.begin + len(opening), self.end - len(closing)
                self.without_spaces()
                return

    def without_object(self) -> None:
        before, behind = OBJECT[0].match(self.head), OBJECT[1].search(self.tail)
        if before and behind and self.end - self.begin >= before.end() + len(behind[0]):
            self.begin, self.end = self.begin + before.end(), self.end - len(behind[0])
            self.is_in_object = True
            self.without_quotes()


def decode(text: Span) -> None:
    """Decode base64 to the beginning of its own file, and cut the file behind it. Raises binascii.Error."""
    packed, is_padded = b"", False
    while text.begin < text.end:
        piece = text.read(PIECE_BYTES)
        if (unfinished := UNFINISHED.search(piece[-2:])) and text.begin + len(piece) < text.end:
            piece = piece[: -len(unfinished[0])] or piece
        text.begin += len(piece)
        for escaped, plain in ESCAPED.items() if b"%" in piece or b"\\" in piece else ():
            piece = piece.replace(escaped, plain).replace(escaped.lower(), plain)
        piece = piece.translate(URL_SAFE, SPACES)
        packed += piece.rstrip(b"=")
        if is_padded and piece.rstrip(b"="):
            raise binascii.Error("it goes on behind its end")
        is_padded = is_padded or piece.endswith(b"=")
        whole = len(packed) // 4 * 4 if text.begin < text.end else len(packed)
        content = b64decode(packed[:whole] + b"=" * (-whole % 4), validate=True)
        packed = packed[whole:]
        text.file.seek(text.written)
        text.written += text.file.write(content)
    text.file.truncate(text.written)
