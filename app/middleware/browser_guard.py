"""Where no key is asked for, whoever reaches the port may do everything: that must not be every web page which a
person on this machine happens to look at.

A page of another site can send forms here (its `Origin` gives it away), and one whose name is made to point to this
machine can read the answers too (its name is in `Host`). With keys neither gets anywhere: no browser adds one by
itself.
"""

import ipaddress
from urllib.parse import urlsplit

from fastapi import Request

from core.config.http import comma_separated
from core.config.settings import Settings
from core.errors import OriginForbidden, UntrustedHost

SAFE = ("GET", "HEAD", "OPTIONS")


def check_browser(request: Request, settings: Settings) -> None:
    """Raises UntrustedHost, OriginForbidden."""
    called = request.headers.get("host", "")
    if not is_ours(host_in(f"//{called}"), settings):
        raise UntrustedHost(
            f"this service is not known as {called[:200]!r}: name it in ALLOWED_HOSTS, or in PUBLIC_URL"
        )
    origin = request.headers.get("origin")
    if request.method in SAFE or origin is None or origin in allowed_origins(settings):
        return
    if origin.partition("://")[2] != called:
        raise OriginForbidden(f"a page from {origin[:200]} may not do this: CORS_ORIGINS does not name it")


def host_in(url: str) -> str | None:
    """Return the name without the dot that may stand at the end of a full one."""
    try:
        return (urlsplit(url).hostname or "").removesuffix(".") or None
    except ValueError:
        return None


def is_ours(host: str | None, settings: Settings) -> bool:
    """Whether nobody else can have made this name point here: an address, a name without a dot, one that is set."""
    if host is None:
        return False
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return "." not in host or host in own_names(settings)
    return True


def own_names(settings: Settings) -> set[str | None]:
    return {host_in(settings.public_url), *(host_in(f"//{name}") for name in comma_separated(settings.allowed_hosts))}


def allowed_origins(settings: Settings) -> list[str]:
    return [origin.rstrip("/") for origin in comma_separated(settings.cors_origins)]
