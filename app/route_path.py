"""The path by which a route is found: that of the request, without what the service lies below."""

from starlette.types import Scope


def route_path(scope: Scope) -> str:
    """Return `/generate` of `/kinora/generate`, if PUBLIC_URL ends in `/kinora`."""
    return str(scope["path"]).removeprefix(scope.get("root_path", ""))
