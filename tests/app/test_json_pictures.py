"""JSON whose pictures are taken out of it while it comes in, however it is cut into pieces."""

import asyncio
import base64
import errno
import json
import tracemalloc
from collections.abc import Iterator
from contextlib import closing, contextmanager
from tempfile import SpooledTemporaryFile
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from starlette import formparsers
from starlette.exceptions import HTTPException

from app import json_pictures
from app.intake.form import MAX_FILES
from app.json_pictures import MAX_TEXTS, JsonPictures
from app.middleware.json_bodies import take
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


@pytest.mark.parametrize("end", ["\\/M=", "\\n", "\\u003d", "é", "\\\\"])
def test_the_end_of_a_text_is_there_though_its_quote_comes_later(end: str) -> None:
    """As PHP writes a slash."""
    with taken(f'{{"image": "AAAA{end}'.encode(), []) as pictures:
        pictures.add(b'"}')
        pictures.write()
        assert text_of(pictures, json.loads(bytes(pictures.rest))["image"]) == json.loads(f'"AAAA{end}"')


@pytest.mark.parametrize("length", [1, 1000, 1 << 18])
def test_a_picture_may_come_in_pieces_of_any_length(length: int) -> None:
    body = ('{"image": "' + TEXT.replace("/", "\\/") * 3 + '"}').encode()
    pieces = [body[at : at + length] for at in range(0, len(body), length)]

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

    with closing(JsonPictures(NAMES)) as pictures:
        assert asyncio.run(take(receive, pictures))
        assert text_of(pictures, json.loads(bytes(pictures.rest))["image"]) == TEXT * 3


def test_a_body_has_as_many_pictures_as_a_form_may_have_files() -> None:
    assert MAX_TEXTS == MAX_FILES
    many = b"[" + b",".join([b'{"image": "A"}'] * (MAX_TEXTS + 1)) + b"]"
    with pytest.raises(HTTPException, match="at most 9 pictures"), taken(many, []):
        pass


@pytest.mark.parametrize(
    "body",
    [{"input_reference[image_url]": TEXT}, {"image_url[]": TEXT}, {"image_url": TEXT}, {"input_reference": TEXT}],
)
def test_a_large_picture_is_taken_by_each_of_its_names(client: TestClient, body: dict[str, str]) -> None:
    large = {name: base64.b64encode(CAT + bytes(200_000)).decode() for name in body}
    assert client.post("/v1/videos", json=large | {"model": "preview"}).status_code == 200


def test_no_room_in_the_temporary_folder_is_told(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    class FullFile(SpooledTemporaryFile[bytes]):
        def write(self, _: object) -> int:  # type: ignore[override]  # of what there is here
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(json_pictures, "SpooledTemporaryFile", FullFile)
    monkeypatch.setattr(formparsers, "SpooledTemporaryFile", FullFile)
    for body in ({"json": {"image": TEXT}}, {"files": {"image": CAT}}):
        answer = client.post("/generate", **body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (507, "storage_full"), answer.text
