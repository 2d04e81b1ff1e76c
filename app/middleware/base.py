"""What lies around the routes, one layer in another: see app/main.py for their order."""

from starlette.types import ASGIApp, Receive, Scope, Send


class Middleware:
    """An ASGI application around another, for HTTP requests; starting and stopping passes through."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (self.handle if scope["type"] == "http" else self.app)(scope, receive, send)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise NotImplementedError
