"""How a Redis is named by one text: redis://, rediss:// (TLS) or unix://, as redis-py reads them."""

import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from redis import Redis
from redis.connection import SSLConnection, UnixDomainSocketConnection, parse_url
from redis.exceptions import RedisError

EXAMPLE = "rediss://user:password@redis.example.com:6380/0?ssl_ca_certs=/etc/ssl/redis.pem"
SHAPE = (
    f"must be like {EXAMPLE}, or redis://… without TLS, or unix:///run/redis.sock; "
    "in a user name or a password / is %2F, @ is %40, : is %3A, # is %23, ? is %3F and % is %25"
)

# What may stand behind "?", the values that each takes, and how those are named. The others of redis-py would change
# what Kinora is answered, and how long it waits.
ANY = ".+"
OPTIONS = {
    "db": (r"\d+", "a number"),
    "username": (ANY, "a name"),
    "password": (ANY, "a password"),
    "socket_connect_timeout": (r"\d*[1-9]\d*(\.\d+)?|0\.\d*[1-9]\d*", "seconds, more than 0"),
    "ssl_cert_reqs": ("none|optional|required", "none, optional or required"),
    "ssl_check_hostname": ("(?i:true|false|yes|no|1|0)", "true or false"),
    "ssl_ca_certs": (ANY, "a file"),
    "ssl_ca_path": (ANY, "a folder"),
    "ssl_certfile": (ANY, "a file"),
    "ssl_keyfile": (ANY, "a file"),
    "ssl_password": (ANY, "a password"),
}

FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")


def redis_options(url: str) -> dict[str, Any]:
    """Return what `redis.Redis` is to be given. Raises ValueError, whose message may quote a password."""
    options: dict[str, Any] = parse_url(url)  # type: ignore[no-untyped-call]  # redis-py says none here
    kind = options.pop("connection_class", None)
    if kind is UnixDomainSocketConnection:
        options["unix_socket_path"] = options.pop("path")
    elif not re.fullmatch(r"/?\d*", urlsplit(url).path):
        raise ValueError("the path is no number of a database")
    options["ssl"] = kind is SSLConnection
    return options


def check_redis_url(url: str) -> None:
    """Connects to nothing. Raises ValueError, with a message that quotes nothing of `url` but the names of options."""
    given = parse_qsl(url.partition("?")[2], keep_blank_values=True)
    try:
        urlsplit(url).port  # noqa: B018 - raises where a ? in the password has cut it
    except ValueError as error:
        raise ValueError(SHAPE) from error
    _check_query(given, is_tls=url.startswith("rediss://"))
    try:
        options = redis_options(url)
        with Redis(**options) as redis:
            redis.connection_pool.make_connection()
    except (ValueError, TypeError, KeyError, RedisError) as error:
        raise ValueError(SHAPE) from error
    _check_files(options)


def _check_query(given: list[tuple[str, str]], is_tls: bool) -> None:
    names = [name for name, _ in given]
    for name, value in given:
        if not re.fullmatch(r"\w+", name):  # but the rest of a password with a ? in it
            raise ValueError(SHAPE)
        if name not in OPTIONS:
            raise ValueError(f"has no option {name}: there are {', '.join(OPTIONS)}")
        pattern, kind = OPTIONS[name]
        if names.count(name) > 1:
            raise ValueError(f"{name} stands in it more than once")
        if not re.fullmatch(pattern, value):
            raise ValueError(f"{name} must be {kind}")
        if name.startswith("ssl_") and not is_tls:
            raise ValueError(f"{name} is of use with rediss:// alone")


def _check_files(options: dict[str, Any]) -> None:
    authorities, certificate, key = (options.get(name) for name in FILES)
    if key and not certificate:
        raise ValueError("ssl_keyfile needs ssl_certfile")
    if not Path(options.get("ssl_ca_path", "/")).is_dir():
        raise ValueError("ssl_ca_path is no folder")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with _named("ssl_ca_certs"):
        if authorities:
            context.load_verify_locations(authorities)
    with _named("ssl_certfile, with its ssl_keyfile and ssl_password,"):
        if certificate:  # without a password OpenSSL would ask the terminal for one
            context.load_cert_chain(certificate, key, options.get("ssl_password", ""))


@contextmanager
def _named(option: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:  # which that of ssl is too
        raise ValueError(f"{option} cannot be read: {error}") from error
