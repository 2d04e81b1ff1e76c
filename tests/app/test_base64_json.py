import base64
import json

import pytest

from app.base64_json import json_with_base64

DATA = bytes(range(256)) * 5


@pytest.mark.parametrize("size", [1, 2, 3, 100, len(DATA), len(DATA) + 1])
def test_whatever_the_parts_are_the_json_is_whole(size: int) -> None:
    parts = [DATA[start : start + size] for start in range(0, len(DATA), size)]
    said = {"seed": 7, "name": 'a "cat" \\u0000'}
    answer = json_with_base64(lambda data: said | {"video": f"data:;base64,{data}"}, parts)
    assert json.loads(b"".join(answer)) == said | {"video": f"data:;base64,{base64.b64encode(DATA).decode()}"}


def test_of_nothing_there_is_nothing() -> None:
    assert b"".join(json_with_base64(lambda data: {"video": data}, [])) == b'{"video": ""}'
