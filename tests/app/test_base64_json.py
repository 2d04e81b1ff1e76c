import base64
import json

import pytest

from app.base64_json import MARK, json_with_base64

DATA = bytes(range(256)) * 5


@pytest.mark.parametrize("size", [1, 2, 3, 100, len(DATA), len(DATA) + 1])
def test_whatever_the_parts_are_the_json_is_whole(size: int) -> None:
    parts = [DATA[start : start + size] for start in range(0, len(DATA), size)]
    answer = {"video": f"data:;base64,{MARK}", "seed": 7, "name": 'a "cat" \\u0000'}
    read = json.loads(b"".join(json_with_base64(answer, parts)))
    assert read == answer | {"video": f"data:;base64,{base64.b64encode(DATA).decode()}"}


def test_of_nothing_there_is_nothing() -> None:
    assert b"".join(json_with_base64({"video": MARK}, [])) == b'{"video": ""}'
