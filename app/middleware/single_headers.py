"""Headers of which a request has one or none. Of two, whoever stands before this server may have judged the other."""

from collections import Counter

from fastapi import Request
from starlette.types import Receive, Scope, Send

from app.errors import refusal
from app.middleware.base import Middleware
from app.route_path import route_path
from core.errors import HeaderInvalid

# Those whose value is no list. Of Content-Length and Transfer-Encoding the parser has judged already.
SINGLE = {
    name.lower().encode(): name
    for name in (
        *("Host", "Origin", "Authorization", "X-API-Key", "Idempotency-Key", "Content-Type", "Last-Event-ID"),
        *("Range", "If-Range", "If-Modified-Since", "If-Unmodified-Since"),
    )
}
# Load balancers ask here without naming a host.
HOSTLESS = ("/health", "/health/live")


class SingleHeaders(Middleware):
    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = wrong_header(scope)
        await (refusal(Request(scope), error) if error else self.app)(scope, receive, send)


def wrong_header(scope: Scope) -> HeaderInvalid | None:
    """Return what is wrong with the headers, for the caller."""
    times = Counter(name for name, _ in scope["headers"] if name in SINGLE)
    for name, count in times.items():
        if count > 1:
            return HeaderInvalid(f"{SINGLE[name]} must be sent once; it came {count} times", param=SINGLE[name])
    if not times[b"host"] and scope["http_version"] == "1.1" and route_path(scope).rstrip("/") not in HOSTLESS:
        return HeaderInvalid("Host must be sent with each request of HTTP/1.1", param="Host")
    return None
