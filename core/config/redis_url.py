"""How a Redis is named by one text: redis://, rediss:// (TLS) or unix://, as redis-py reads them."""

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from redis import Redis
from redis.connection import SSLConnection, UnixDomainSocketConnection, parse_url
from redis.exceptions import RedisError

EXAMPLE = "rediss://user:password@redis.example.com:6380/0?ssl_ca_certs=/etc/ssl/redis.pem"

FILES = {"ssl_ca_certs", "ssl_certfile", "ssl_keyfile"}


def redis_options(url: str) -> dict[str, Any]:
    """Return what `redis.Redis` is to be given. Raises ValueError, whose message may quote a password."""
    options: dict[str, Any] = parse_url(url)  # type: ignore[no-untyped-call]  # redis-py says none here
    kind = options.pop("connection_class", None)
    if kind is UnixDomainSocketConnection:
        options["unix_socket_path"] = options.pop("path")
    elif not re.fullmatch(r"/?\d*", urlsplit(url).path):
        raise ValueError("the path is no number of a database")
    options["ssl"] = kind is SSLConnection
    if not options["ssl"] and any(name.startswith("ssl_") for name in options):
        raise ValueError("only rediss:// uses a certificate")
    return options


def check_redis_url(url: str) -> None:
    """Connects to nothing. Raises ValueError, with a message that quotes nothing of `url`."""
    try:
        options = redis_options(url)
        with Redis(**options) as redis:
            redis.connection_pool.make_connection()
    except (ValueError, TypeError, KeyError, RedisError) as error:
        raise ValueError(
            f"must be like {EXAMPLE}, or redis://… without TLS, or unix:///run/redis.sock; "
            "in a user name or a password / is %2F, @ is %40, : is %3A, # is %23, ? is %3F and % is %25"
        ) from error
    for name in FILES & options.keys():
        try:
            Path(options[name]).read_bytes()
        except OSError as error:
            raise ValueError(f"{name} cannot be read: {error}") from error
