"""What a dialect is: another vendor's API, spoken so that its clients work here as they are."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter

ErrorFields = Callable[[int, str, str], dict[str, Any]]
"""Returns, of an answer's status, code and message, what the vendor's clients read an error by."""


@dataclass(frozen=True)
class HttpDialect:
    routers: tuple[APIRouter, ...]
    uploads: str
    """A regular expression of the paths whose requests may hold a picture."""
    pictures: tuple[str, ...] = ()
    """What a picture is called in JSON that is not read as a form."""
    paths: tuple[str, ...] = ()
    """What is in the paths whose errors have `error_fields`, beside our own shape: behind a wrong beginning too."""
    error_fields: ErrorFields | None = None
    headers: tuple[str, ...] = ()
    """Of its answers, which scripts of other origins may read."""
