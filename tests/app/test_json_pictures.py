"""JSON whose pictures are taken out of it while it comes in, however it is cut into pieces."""

import json
import tracemalloc
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from starlette.exceptions import HTTPException

from app import json_pictures
from app.json_pictures import JsonPictures
from core.errors import UploadTooLarge
from harness.pictures import CAT
from tests.app.test_source import TEXT

NAMES = ("image", "image_url")
# What JSON escapes, what ends or seems to end a text, and what is longer than a byte.
TEXTS = st.text(alphabet=st.sampled_from('aZ9+/=\\"\n\t{}:,é€🐈'), max_size=30)
VALUES = st.recursive(
    TEXTS | st.none() | st.integers(-9, 9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*NAMES, "prompt", 'x"image']), inner),
    max_leaves=8,
)


@contextmanager
def taken(body: bytes, cuts: list[int]) -> Iterator[JsonPictures]:
    """`body` in pieces that end at `cuts`."""
    with closing(JsonPictures(NAMES)) as pictures:
        for begin, end in zip([0, *cuts], [*cuts, len(body)], strict=True):
            pictures.add(body[begin:end])
            pictures.write()
        yield pictures


def put_back(pictures: JsonPictures, value: Any) -> Any:
    """What is left, with each text where it was."""
    if isinstance(value, dict):
        return {name: put_back(pictures, inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [put_back(pictures, inner) for inner in value]
    return text_of(pictures, value) if isinstance(value, str) else value


def text_of(pictures: JsonPictures, text: str) -> str:
    file = pictures.file_of(text)
    file.seek(0)
    return file.read().decode()


def named_texts(value: Any) -> Iterator[str]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, each in inner:
        if name in NAMES and isinstance(each, str):
            yield each
        yield from named_texts(each)


@given(data=st.data(), value=VALUES, is_ascii=st.booleans(), indent=st.sampled_from([None, 2]))
def test_however_it_is_cut_nothing_is_lost_and_nothing_else_is_taken(
    data: st.DataObject, value: Any, is_ascii: bool, indent: int | None
) -> None:
    body = json.dumps(value, ensure_ascii=is_ascii, indent=indent).encode()
    if is_ascii:  # half of a character that is escaped as two is none
        cuts = sorted(data.draw(st.sets(st.integers(0, len(body)))) - halves(body))
    else:
        cuts = sorted(data.draw(st.sets(st.integers(0, len(body)))))
    with taken(body, cuts) as pictures:
        left = json.loads(bytes(pictures.rest))
        assert put_back(pictures, left) == value
        for text in named_texts(left):
            assert len(text) == 32
        assert len(pictures._texts) == len(list(named_texts(value)))


def halves(body: bytes) -> set[int]:
    """Where a character that takes two escapes is cut in its middle."""
    begins = [at for at in range(len(body)) if body.startswith(b"\\ud83d\\udc08", at)]
    return {at for begin in begins for at in range(begin + 1, begin + 12)}


def test_a_large_picture_is_never_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_pictures, "IN_MEMORY", 1 << 16)
    piece = b"A" * (1 << 16)
    tracemalloc.start()
    try:
        with closing(JsonPictures(NAMES)) as pictures:
            pictures.add(b'{"image": "')
            for _ in range(200):
                pictures.add(piece)
                pictures.write()
            pictures.add(b'"}')
            pictures.write()
            _, most = tracemalloc.get_traced_memory()
            file = pictures.file_of(json.loads(bytes(pictures.rest))["image"])
            assert (file.seek(0, 2), most < 10 * len(piece)) == (200 * len(piece), True)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("text", ["a\nb", "a\\xb", "a\\u12", b"\xff".decode("latin-1")])
def test_what_json_does_not_allow_in_a_text_is_refused(text: str) -> None:
    with (
        pytest.raises(HTTPException, match="the body is no JSON"),
        taken(b'{"image": "' + text.encode("latin-1") + b'"}', [12]),
    ):
        pass


def test_what_is_no_picture_stays_small() -> None:
    with pytest.raises(UploadTooLarge), taken(json.dumps({"prompt": "a" * 70_000}).encode(), []):
        pass
    with pytest.raises(HTTPException, match="quotes"), taken(json.dumps({"image": '"' * 20_000}).encode(), []):
        pass


def test_what_stands_for_a_picture_can_not_be_guessed() -> None:
    body = json.dumps({"image": TEXT}).encode()
    with taken(body, []) as one, taken(body, []) as other:
        assert one.rest != other.rest


def test_a_picture_may_come_in_pieces_of_any_length(client: TestClient) -> None:
    body = json.dumps({"image": "data:image/jpeg;base64," + TEXT.replace("/", "\\/")}).replace("\\\\/", "\\/").encode()
    for length in (1, 1000, len(body)):
        pieces = iter([body[at : at + length] for at in range(0, len(body), length)])
        answer = client.post("/generate", content=pieces, headers={"Content-Type": "application/json"})
        assert answer.status_code == 202, answer.text
    assert len(CAT) > 1000
