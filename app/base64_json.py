"""Bytes as base64 inside JSON, part by part: a video is never in memory as a whole."""

import base64
import json
from collections.abc import Iterable, Iterator
from typing import Any

from core.ids import new_id

MARK = new_id()  # so that nobody can have put it where it does not belong


def json_with_base64(answer: dict[str, Any], parts: Iterable[bytes]) -> Iterator[bytes]:
    """`answer` as JSON, with what `parts` are together in the place of MARK."""
    before, after = json.dumps(answer).split(MARK)
    yield before.encode()
    rest = b""
    for part in parts:
        whole = (len(rest) + len(part)) // 3 * 3
        yield base64.b64encode((rest + part)[:whole])
        rest = (rest + part)[whole:]
    yield base64.b64encode(rest) + after.encode()
