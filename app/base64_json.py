"""Bytes as base64 inside JSON, part by part: a video is never in memory as a whole."""

import base64
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from core.ids import new_id


def json_with_base64(answer: Callable[[str], dict[str, Any]], parts: Iterable[bytes]) -> Iterator[bytes]:
    """Yield as JSON what `answer` returns of a text, with what `parts` are together in that text's place."""
    mark = new_id()  # so that nobody can have put it where it does not belong
    before, after = json.dumps(answer(mark)).split(mark)
    yield before.encode()
    rest = b""
    for part in parts:
        whole = (len(rest) + len(part)) // 3 * 3
        yield base64.b64encode((rest + part)[:whole])
        rest = (rest + part)[whole:]
    yield base64.b64encode(rest) + after.encode()
