"""One byte range of an HTTP request (RFC 9110, section 14)."""

import re

from core.errors import RangeNotSatisfiable

ONE_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII | re.IGNORECASE)


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """(start, end) with `end` not included, or None if the whole is to be sent.

    A header that is malformed or asks for several ranges is ignored, as the RFC allows. Raises RangeNotSatisfiable.
    """
    match = ONE_RANGE.fullmatch(header.strip()) if header else None
    if match is None or match.group(1) == match.group(2) == "":
        return None
    first, last = match.groups()
    if first == "":
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(size, int(last) + 1 if last else size)
        if last and int(last) < int(first):
            return None
    if start >= size or start >= end:
        raise RangeNotSatisfiable(size)
    return start, end
