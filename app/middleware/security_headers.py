"""What tells a browser to do nothing with our answers but what they are for."""

from starlette.datastructures import MutableHeaders
from starlette.types import Message, Receive, Scope, Send

from app.middleware.base import Middleware
from app.route_path import route_path
from core.config.settings import Settings

# A result opened by itself is shown in a page that the browser makes: it may show that one file.
RESTRICTED = (
    "default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# The documentation's pages begin with a script of their own.
DOCUMENTATION = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; worker-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
DOCUMENTATION_PATHS = ("/docs", "/redoc", "/docs/oauth2-redirect")
# Its scripts and styles are files of ours, and nothing in the page itself is run.
STUDIO = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:{results}; "
    "media-src 'self' blob:{results}; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class SecurityHeaders(Middleware):
    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = route_path(scope)

        async def add(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in headers_for(path).items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, add)


def studio_policy(settings: Settings) -> str:
    # Which host the object store's links name is known when they are made.
    return STUDIO.format(results=" https: http:" if settings.result_redirect else "")


def headers_for(path: str) -> dict[str, str]:
    return {
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Content-Security-Policy": DOCUMENTATION if path in DOCUMENTATION_PATHS else RESTRICTED,
        # A link to a result is for other sites' pages too.
        "Cross-Origin-Resource-Policy": "cross-origin" if path.startswith("/results/") else "same-origin",
        # The page is asked for each time, and comes again only if it has changed.
        "Cache-Control": "no-cache" if path == "/" or path.startswith("/studio/") else "no-store",
    }
