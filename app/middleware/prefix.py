"""The path that this service lies below, by PUBLIC_URL: it stands before the path of each request from here on, as
ASGI wants it, so that whatever makes a URL of the request has it, and routes are found behind it."""

from collections.abc import Iterable
from urllib.parse import unquote, urlsplit

from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from app.middleware.base import Middleware
from core.errors import InvalidParameter


class Prefix(Middleware):
    """Takes requests from which a proxy has removed the prefix, and requests that have it still."""

    def __init__(self, app: ASGIApp, public_url: str) -> None:
        super().__init__(app)
        self.prefix = prefix_of(public_url)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["root_path"] = self.prefix
        if not f"{scope['path']}/".startswith(f"{self.prefix}/"):
            scope["path"] = self.prefix + scope["path"]
        await self.app(scope, receive, send)


def prefix_of(public_url: str) -> str:
    """Return the path without escapes, as a request's is in ASGI, and without a slash at its end."""
    return unquote(urlsplit(public_url).path.rstrip("/"))


def check_prefix(public_url: str, routes: Iterable[BaseRoute]) -> None:
    """Raises InvalidParameter for a prefix that a request may begin with from which a proxy has removed it."""
    prefix = prefix_of(public_url)
    for path in (getattr(route, "path", "") for route in routes):
        if prefix and is_beginning(prefix.split("/"), path.split("/")):
            raise InvalidParameter(f"PUBLIC_URL cannot lie below {prefix}, with which {path} begins here")


def is_beginning(parts: list[str], template: list[str]) -> bool:
    """Whether a path of these parts may be what a path of this template begins with."""
    found = [part for part, there in zip(parts, template, strict=False) if there == part or there.startswith("{")]
    return len(found) == len(parts)
