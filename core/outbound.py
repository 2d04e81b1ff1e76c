"""Where Kinora may connect to on a caller's word: the one place that judges it, for pictures and for callbacks.

A URL is judged as it is written when it is asked for, without the network, and by its addresses before each
connection. Whoever connects takes an address from `OutboundUrl.addresses` and never gives the name to a resolver
again: the second answer could be another.
"""

import re
import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import SplitResult, urlsplit

import idna

from core.errors import DestinationForbidden, InvalidParameter

MAX_URL = 2000
MOST_TRIED = 8  # addresses of one name: a name may have thousands, of anybody's machines
PORTS = {"http": 80, "https": 443}

NETLOC = re.compile(r"(?:\[(?P<six>[^\[\]]+)\]|(?P<name>[^\[\]:]+))(?::(?P<port>[0-9]{0,5}))?")
NAME = re.compile(r"(?=.{1,253}$)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")

IPV6_INTERNET = IPv6Network("2000::/3")
# Where an IPv6 address only wraps an IPv4 address, and how many bits stand behind that.
WRAPPED = (
    (IPv6Network("::ffff:0:0/96"), 0),
    (IPv6Network("64:ff9b::/96"), 0),  # NAT64
    (IPv6Network("2002::/16"), 80),  # 6to4
)
# What Python calls global, in one version or another, and is not to be connected to all the same.
FORBIDDEN_IPV4 = (
    IPv4Network("192.0.0.0/24"),  # protocol assignments; a cloud keeps its metadata there
    IPv4Network("192.31.196.0/24"),
    IPv4Network("192.52.193.0/24"),
    IPv4Network("192.88.99.0/24"),  # 6to4 relays
    IPv4Network("192.175.48.0/24"),
    IPv4Network("168.63.129.16/32"),  # Azure's own services, from every machine in it
)
FORBIDDEN_IPV6 = (
    IPv6Network("2001::/23"),  # Teredo, ORCHID, benchmarks
    IPv6Network("2620:4f:8000::/48"),
    IPv6Network("3fff::/20"),
)
ISATAP = (0x00005EFE, 0x02005EFE)


@dataclass(frozen=True)
class OutboundUrl:
    """A URL in which nothing is forbidden as it is written. `host` is in its one spelling, without brackets."""

    parts: SplitResult
    host: str
    port: int
    is_allowed: bool
    """FETCH_ALLOW names it: any address will do."""
    param: str

    @property
    def host_header(self) -> str:
        return _netloc(self.host, None if self.port == PORTS[self.parts.scheme] else self.port)

    def addresses(self) -> list[str]:
        """The only addresses to connect to, the best first. Asks the resolver, once, and may block for long.

        Raises DestinationForbidden if one of them is forbidden, socket.gaierror where there are none.
        """
        addresses = _resolved(self.host, self.port)
        if not self.is_allowed and not all(is_public(ip_address(address)) for address in addresses):
            raise self.forbidden()
        return addresses[:MOST_TRIED]

    def url_at(self, address: str) -> str:
        """The URL with `address` for its host. Who takes it sends `host_header`, and `host` as the name for TLS."""
        return self.parts._replace(netloc=_netloc(address, self.port), fragment="").geturl()

    def forbidden(self) -> DestinationForbidden:
        return DestinationForbidden(
            f"{self.param} must not lead to {self.host}: only public addresses are allowed, and what FETCH_ALLOW names",
            param=self.param,
        )


def _resolved(host: str, port: int) -> list[str]:
    """Raises socket.gaierror, whatever a resolver says that is no address."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = [str(entry[4][0]) for entry in found]
        for address in addresses:
            ip_address(address)
    except (OSError, ValueError) as error:  # UnicodeError is a ValueError
        raise socket.gaierror(socket.EAI_NONAME, f"{host} has no address") from error
    if not addresses:
        raise socket.gaierror(socket.EAI_NONAME, f"{host} has no address")
    return list(dict.fromkeys(addresses))


def check_outbound_url(url: str, fetch_allow: str, param: str = "url", https_only: bool = False) -> OutboundUrl:
    """Raises InvalidParameter for what is no URL, DestinationForbidden for one that is known to be forbidden."""
    parts, host, port = _split(url, param)
    destination = OutboundUrl(parts, host, port, (host, port) in allowed_places(fetch_allow), param)
    if destination.is_allowed:
        return destination
    if port not in PORTS.values():
        message = f"{param} must have the port 80 or 443, or be in FETCH_ALLOW; got {port}"
        raise DestinationForbidden(message, param=param)
    if https_only and parts.scheme != "https":
        raise DestinationForbidden(f"{param} must begin with https://", param=param)
    address = _literal(host)
    if f".{host}".endswith(".localhost") or (address and not is_public(address)):
        raise destination.forbidden()
    return destination


def allowed_places(fetch_allow: str) -> set[tuple[str, int]]:
    """FETCH_ALLOW as pairs of host and port. Raises ValueError."""
    places: set[tuple[str, int]] = set()
    for entry in filter(None, map(str.strip, fetch_allow.split(","))):
        host, port = _host_and_port(entry)
        places |= {(host, port)} if port else {(host, standard) for standard in PORTS.values()}
    return places


def is_public(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv4Address):
        forbidden = address.is_multicast or any(address in network for network in FORBIDDEN_IPV4)
        return address.is_global and not forbidden
    number = int(address)
    if address.scope_id is not None or number >> 32 & 0xFFFFFFFF in ISATAP:
        return False
    for network, behind in WRAPPED:
        if address in network:
            return is_public(IPv4Address(number >> behind & 0xFFFFFFFF))
    forbidden = address not in IPV6_INTERNET or any(address in network for network in FORBIDDEN_IPV6)
    return address.is_global and not forbidden


def host_of(url: str) -> str:
    """Host and port as `url` gives them: what is slow there is slow for every callback to it."""
    return urlsplit(url).netloc.lower()[:255]


def check_length(size: int, param: str) -> None:
    """Raises InvalidParameter for a URL of too many bytes."""
    if size > MAX_URL:
        raise InvalidParameter(f"{param} must have at most {MAX_URL} bytes; got {size}", param=param)


def _split(url: str, param: str) -> tuple[SplitResult, str, int]:
    """The parts of `url`, its host in its one spelling, and its port. Raises InvalidParameter."""
    check_length(len(url.encode(errors="replace")), param)
    if any(letter.isspace() or not letter.isprintable() for letter in url):
        raise InvalidParameter(f"{param} must hold no spaces and no control characters", param=param)
    try:
        parts = urlsplit(url)
        if parts.scheme not in PORTS or not parts.netloc:
            raise InvalidParameter(f"{param} must be a URL that begins with http:// or https://", param=param)
        if "@" in parts.netloc:
            raise InvalidParameter(f"{param} must hold no user name and no password", param=param)
        host, port = _host_and_port(parts.netloc)
    except ValueError as error:
        raise InvalidParameter(f"{param} is no URL: {error}", param=param) from error
    return parts, host, port or PORTS[parts.scheme]


def _host_and_port(netloc: str) -> tuple[str, int | None]:
    """The host in its one spelling: names in ASCII, addresses as Python writes them. Raises ValueError."""
    found = NETLOC.fullmatch(netloc)
    if not found:
        raise ValueError(f"{netloc!r} is no host with or without a port")
    port = int(found["port"]) if found["port"] else None
    if port is not None and not 0 < port < 65536:
        raise ValueError(f"there is no port {port}")
    if found["six"]:
        return str(IPv6Address(found["six"].replace("%25", "%", 1))), port
    name = found["name"]
    if not name.isascii():
        name = idna.encode(name, uts46=True).decode()
    name = name.lower().removesuffix(".")
    if not NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no host name")
    return str(_literal(name) or name), port


def _literal(host: str) -> IPv4Address | IPv6Address | None:
    """`host` as an address if it is one in any spelling that resolvers take, 127.1 and 0x7f000001 too."""
    if ":" in host:
        return IPv6Address(host)
    try:
        return IPv4Address(socket.inet_aton(host))
    except OSError:
        return None


def _netloc(host: str, port: int | None) -> str:
    return (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")
