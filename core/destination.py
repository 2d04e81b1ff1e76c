"""Where a callback may go: the one place that judges it, when it is asked for and again at each try."""

from urllib.parse import urlsplit

from core.errors import InvalidParameter

MAX_URL = 2000


def check_destination(url: str, param: str = "url") -> None:
    """Raises InvalidParameter where no callback may go to `url`."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
        _ = parts.port  # reading it is what finds a wrong one
    except ValueError as error:
        raise InvalidParameter(f"{param} is no URL: {error}", param=param) from error
    if parts.scheme not in ("http", "https") or not host:
        raise InvalidParameter(f"{param} must be a URL that begins with http:// or https://", param=param)
    if len(url.encode()) > MAX_URL:
        raise InvalidParameter(f"{param} must have at most {MAX_URL} bytes; got {len(url.encode())}", param=param)
    if parts.username is not None or any(letter.isspace() or not letter.isprintable() for letter in url):
        raise InvalidParameter(f"{param} must hold no user name, no password and no spaces", param=param)


def host_of(url: str) -> str:
    """Host and port as `url` gives them: what is slow there is slow for every callback to it."""
    return urlsplit(url).netloc.lower()[:255]
