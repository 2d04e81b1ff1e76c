"""A picture as text, decoded in its file piece by piece."""

import base64
import io
import tempfile
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.intake import picture_text
from app.intake.picture_text import decode_text
from core.errors import InvalidParameter


def plain(content: bytes) -> bytes:
    return base64.b64encode(content)


def for_urls(content: bytes) -> bytes:
    return base64.urlsafe_b64encode(content).rstrip(b"=")


def in_lines(content: bytes) -> bytes:
    return base64.encodebytes(content).replace(b"\n", b"\r\n")


def escaped(content: bytes) -> bytes:
    text = in_lines(content)
    for code in b"+/=\r\n":
        text = text.replace(bytes([code]), b"%%%02x" % code)
    return text


def in_an_object(content: bytes) -> bytes:
    return b'{"image_url": "data:image/png;base64,' + plain(content).replace(b"/", b"\\/") + b'"}'


@pytest.mark.parametrize("write", [plain, for_urls, in_lines, escaped, in_an_object])
@pytest.mark.parametrize("piece_bytes", [3, 4, 5, 64, 1000])
@given(content=st.binary(min_size=1, max_size=200))
def test_a_text_is_decoded_alike_however_it_is_cut(write, piece_bytes: int, content: bytes) -> None:  # type: ignore[no-untyped-def]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(picture_text, "PIECE_BYTES", piece_bytes)
        file = io.BytesIO(write(content))
        assert decode_text(file, "image") is None
        assert file.getvalue() == content


@pytest.mark.parametrize("text", [b"QQ==QQ==", b"QQ=Q", b"QUJD!", b"Q", b"QQ==\nQUJD", b"%", b"QUJD%", b"\\"])
@pytest.mark.parametrize("piece_bytes", [3, 4, 1000])
def test_what_is_no_base64_is_left(monkeypatch: pytest.MonkeyPatch, text: bytes, piece_bytes: int) -> None:
    monkeypatch.setattr(picture_text, "PIECE_BYTES", piece_bytes)
    with pytest.raises(InvalidParameter, match="image holds a data: URL whose base64 is broken"):
        decode_text(io.BytesIO(b"data:image/png;base64," + text), "image")
    file = io.BytesIO(text)
    if piece_bytes > len(text):
        assert decode_text(file, "image") is None
        assert file.getvalue() == text


def test_base64_that_breaks_off_is_no_picture_with_something_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_text, "PIECE_BYTES", 4)
    with pytest.raises(InvalidParameter, match="image holds base64 that is broken"):
        decode_text(io.BytesIO(b"QUJDQUJD!QUJD"), "image")


@pytest.mark.parametrize(
    "text",
    [
        "https://a.example/b.png",
        " 'https://a.example/b.png' ",
        '{"image_url":"https://a.example/b.png"}',
        r'{"image_url":"https:\/\/a.example\/b.png"}',
    ],
)
def test_a_url_is_found_in_any_dress(text: str) -> None:
    assert decode_text(io.BytesIO(text.encode()), "image") == "https://a.example/b.png"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"https://a.example/\xff", "UTF-8"),
        (b"https://a.example/\0", "NUL"),
        (b"https://a/" + b"b" * 9000, "at most 2000"),
    ],
)
def test_a_url_that_is_none_is_refused(text: bytes, why: str) -> None:
    with pytest.raises(InvalidParameter, match=f"^image .*{why}"):
        decode_text(io.BytesIO(text), "image")


def test_an_object_that_holds_more_than_a_url_is_none() -> None:
    text = b'{"image_url":"https://a.example/b.png","detail":"high"}'
    assert decode_text(file := io.BytesIO(text), "image") is None
    assert file.getvalue() == text


def test_a_large_text_is_decoded_in_little_memory() -> None:
    text = plain(bytes(3 << 20)) * 3
    with tempfile.TemporaryFile() as file:
        file.write(text)
        tracemalloc.start()
        try:
            assert decode_text(file, "image") is None
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert (file.seek(0, io.SEEK_END), most < 1 << 20) == (9 << 20, True)
