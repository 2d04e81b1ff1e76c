"""The path that this service lies below, by PUBLIC_URL: it stands before the path of each request from here on, as
ASGI wants it, so that whatever makes a URL of the request has it, and routes are found behind it."""

from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from app.middleware.base import Middleware


class Prefix(Middleware):
    """Takes requests from which a proxy has removed the prefix, and requests that have it still."""

    def __init__(self, app: ASGIApp, public_url: str) -> None:
        super().__init__(app)
        self.prefix = urlsplit(public_url).path.rstrip("/")

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["root_path"] = self.prefix
        if not f"{scope['path']}/".startswith(f"{self.prefix}/"):
            scope["path"] = self.prefix + scope["path"]
        await self.app(scope, receive, send)
