"""JSON from a caller, read as it was written: where an object has a name twice, Python would drop one of the values.
What not every store can hold is refused here, for all that comes as JSON."""

import json
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import Any, ClassVar

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from core.errors import InvalidParameter, KinoraError
from core.text import check_name, check_text

LONGEST_NUMBER = 4300  # digits; Python reads no more
# Beyond these, reading a small body and refusing each part of it takes far longer than receiving it. A prompt may have
# thousands of quotes.
MAX_QUOTES, MAX_OBJECTS, MAX_NAMES = 10_000, 5_000, 200
TOO_MANY_PARTS = f"the body may have at most {MAX_QUOTES} quotes and {MAX_OBJECTS} braces"
NO_JSON = "the body is no JSON"


def read_json(text: str | bytes) -> Any:
    """Raises InvalidParameter for a name that is there twice and for text that not every store can hold, HTTPException
    for what is no JSON or has very many parts. A whole number that is too long for Python stays text."""
    quote, brace = ('"', "{") if isinstance(text, str) else (b'"', b"{")
    if text.count(quote) > MAX_QUOTES or text.count(brace) > MAX_OBJECTS:  # type: ignore[arg-type]  # of the same kind
        raise HTTPException(400, TOO_MANY_PARTS)
    try:
        return json.loads(text, object_pairs_hook=each_once, parse_int=whole_number)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, NO_JSON) from error


def each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MAX_NAMES:
        raise HTTPException(400, f"an object may have at most {MAX_NAMES} fields; got {len(pairs)}")
    for name, value in pairs:
        check_name(name)
        for text in texts_in(value):
            check_text(name, text)
    check_each_once(name for name, _ in pairs)
    return dict(pairs)


def texts_in(value: Any) -> Iterator[str]:
    """Yield a text, and those of a list of lists; what stands in an object has names of its own."""
    left = [value]
    while left:
        each = left.pop()
        if isinstance(each, str):
            yield each
        elif isinstance(each, list):
            left += each


def whole_number(digits: str) -> int | str:
    return int(digits) if len(digits) <= LONGEST_NUMBER else digits


def check_each_once(names: Iterable[str]) -> None:
    """Raises InvalidParameter."""
    for name, times in Counter(names).items():
        if times > 1:
            raise InvalidParameter(f"{name} must be given once; it is there {times} times", param=name)


class StrictJson(Request):
    async def json(self) -> Any:
        return read_json(await self.body())


class JsonRoute(APIRoute):
    """A route whose body is read as `request_class` reads it."""

    request_class: ClassVar[type[Request]] = StrictJson

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_strictly(request: Request) -> Response:
            try:
                return await handle(self.request_class(request.scope, request.receive))
            except HTTPException as error:
                if isinstance(error.__cause__, KinoraError):  # FastAPI makes a 400 of what reading a body raises
                    raise error.__cause__ from error
                raise

        return handle_strictly
