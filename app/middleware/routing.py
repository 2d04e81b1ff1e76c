"""What a request's path, method and media type rule out, said before anything is said of its body: 404, 405, 415, the
way to the same path without a slash at its end, and what OPTIONS asks. None of it reads the body."""

from collections.abc import Sequence
from urllib.parse import quote

from fastapi import Request
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import closing, has_body, refusal
from app.middleware.base import Middleware
from app.route_path import route_path

JSON = ("application/json",)
OF_FILES = {"GET", "HEAD"}


class Routing(Middleware):
    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (early_answer(Request(scope)) or self.app)(scope, receive, send)


def early_answer(request: Request) -> ASGIApp | None:
    """Return the answer to a request that is for no route; None: a route takes it."""
    # Starlette would pass by a line's end behind a path, and what is bound to paths would not know it.
    found = [] if route_path(request.scope).endswith("\n") else matching(request)
    route = next((route for route in found if request.method in methods_of(route)), None)
    if route:
        return unreadable(request, media_types(route))
    return misspelled(request) or unanswered(request, allowed(request, found))


def unreadable(request: Request, read: Sequence[str]) -> ASGIApp | None:
    if request.method != "POST" or not read or not has_body(request):
        return None
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("identity", ""):
        message = f"the body must come as it is, without Content-Encoding; got {coding[:80]!r}"
        return refusal(request, HTTPException(415, message, {"Accept-Encoding": "identity"}))
    sent = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if sent in read:
        return None
    message = f"the body must be {' or '.join(read)}, and Content-Type say so; got {sent[:80]!r}"
    return refusal(request, HTTPException(415, message))


def misspelled(request: Request) -> ASGIApp | None:
    """Return the way to the path that was meant, without a host: a proxy may have another name and another scheme."""
    prefix, path = request.scope["root_path"], route_path(request.scope)
    straight = path.rstrip("/") or "/"
    if straight == path or not matching(request, straight):
        return None
    query = request.scope["query_string"].decode("latin-1")
    return closing(request, RedirectResponse(quote(prefix + straight) + (query and f"?{query}")))


def unanswered(request: Request, methods: list[str]) -> ASGIApp:
    path = route_path(request.scope)
    if not methods:
        route = meant(request, path)
        hint = f"; there is {route}" if route else ""
        return refusal(request, HTTPException(404, f"there is no {path} here{hint}"))
    headers = {"Allow": ", ".join(methods)}
    if request.method == "OPTIONS":
        return closing(request, Response(status_code=204, headers=headers))
    return refusal(request, HTTPException(405, f"{request.method} is none of {headers['Allow']}", headers))


def meant(request: Request, path: str) -> str | None:
    """Return the path of a route that a base URL without /v1, or with something before it, does not lead to."""
    parts = path.split("/")
    shorter = ["/".join(["", *parts[start:]]) for start in (2, 3, 4) if any(parts[start:])]
    return next((each for each in (f"/v1{path}", *shorter) if matching(request, each)), None)


def matching(request: Request, path: str | None = None) -> list[BaseRoute]:
    """Return the routes with this path, of any method."""
    scope = request.scope if path is None else {**request.scope, "path": request.scope["root_path"] + path}
    return [route for route in request.app.routes if route.matches(scope)[0] is not Match.NONE]


def methods_of(route: BaseRoute) -> set[str]:
    return getattr(route, "methods", None) or OF_FILES


def allowed(request: Request, found: Sequence[BaseRoute]) -> list[str]:
    """Return the methods of the routes whose path is spelled as this one, else as the first of them."""
    by_path: dict[str, set[str]] = {}
    for route in found:
        by_path.setdefault(getattr(route, "path", ""), {"OPTIONS"}).update(methods_of(route))
    return sorted(by_path.get(route_path(request.scope)) or next(iter(by_path.values()), ()))


def media_types(route: BaseRoute) -> Sequence[str]:
    """Return what a route reads; of one that reads nothing, nothing."""
    default = JSON if getattr(route, "body_field", None) else ()
    return getattr(route, "media_types", default)
