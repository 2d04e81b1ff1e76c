"""The judge of where Kinora may connect to: spellings of URLs, and addresses."""

import socket
from ipaddress import ip_address
from typing import Any

import pytest
from pydantic import ValidationError

from core.config.settings import Settings
from core.errors import DestinationForbidden, InvalidParameter
from core.outbound import check_outbound_url, host_of, is_public

LOOPBACK_IN_EVERY_SPELLING = [
    "127.0.0.1", "127.1", "127.0.1", "0177.0.0.1", "0x7f.0.0.1", "0x7f.1", "017700000001", "2130706433",
    "0x7f000001", "0X7F000001", "00000177.1", "127.0.0.1.", "2130706433.", "①②⑦.⓪.⓪.①", "127。0。0。1", "１２７.0.0.1",
    "０x7f.1", "127．1", "localhost", "LOCALHOST", "localhost.", "a.localhost", "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ", "0", "0.0.0.0", "[::1]",
    "[::]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[64:ff9b::7f00:1]",
    "[64:ff9b::127.0.0.1]", "[2002:7f00:1::]", "[::1%lo]", "[::ffff:127.0.0.1%25lo]",
]  # fmt: skip

FORBIDDEN_ADDRESSES = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.255",
    "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.0.9", "192.0.0.192", "192.0.2.1",
    "192.31.196.1", "192.52.193.1", "192.88.99.1", "192.168.1.1", "192.175.48.1", "198.18.0.1", "198.19.255.255",
    "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255", "168.63.129.16",
    "::", "::1", "::2", "::127.0.0.1", "::8.8.8.8", "::ffff:10.0.0.1", "::ffff:169.254.169.254",
    "::ffff:0:127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b::a83f:8110", "64:ff9b:1::1",
    "64:ff9b:1::808:808", "100::1", "2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:2::1", "2001:3::1",
    "2001:4:112::1", "2001:10::1",
    "2001:20::1", "2001:db8::1", "2002:7f00:1::", "2002:7f00:1::1", "2002:a00:1::1", "2002:a9fe:a9fe::1",
    "2620:4f:8000::1", "3fff::1", "3fff:fff::1", "4000::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1",
    "fe80::1%1", "::ffff:8.8.8.8%1", "2606:4700::1111%1", "fec0::1", "ff02::1", "ff0e::1", "2606:4700::5efe:7f00:1",
    "2606:4700::200:5efe:a00:1",
]  # fmt: skip

PUBLIC_ADDRESSES = [
    "1.1.1.1", "8.8.8.8", "93.184.216.34", "100.63.255.255", "100.128.0.1", "172.15.0.1", "172.32.0.1", "192.0.1.1",
    "168.63.129.15", "223.255.255.255", "2606:4700:4700::1111", "2a00:1450:4001::1", "2001:4860:4860::8888",
    "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1",
]  # fmt: skip

MALFORMED = [
    "", "x", "example.com/a", "//example.com/", "ftp://example.com/", "file:///etc/passwd", "gopher://example.com/",
    "data:image/png;base64,AAAA", "http://", "https://", "https:///a", "http://[", "http://[]", "http://]/",
    "http://[::1", "http://[::1]x/", "http://[::1]80/", "http://[v1.x]/", "http://[127.0.0.1]/", "http://::1/",
    "http://a:b@example.com/", "http://a@example.com/", "http://@example.com/", "http://127.0.0.1\\@example.com/",
    "http://example.com\\@127.0.0.1/", "http://example.com\\.a/", "http://a b/", " http://example.com/",
    "http://example.com/\n", "http://exam\tple.com/", "http://example.com/\x00", "http://exam\u00adple.com/",
    "http://exam\u200dple.com/", "http://\ud800/", "http://a:99999/", "http://a:0/", "http://a:+80/", "http://a:８０/",
    "http://a:80:80/", "http://%31%32%37.0.0.1/", "http://127%2e0.0.1/", "http://%6cocalhost/", "http://a..b/",
    "http://.a/", "http://a../", "http://./", "http://-\u0300a/", "http://xn--\u2603/", "http://a,b/", "http://a*/",
    "http://" + "a" * 64 + ".de/", "http://" + "a." * 127 + "de/", "http://a/" + 2000 * "x", "http://a/" + 1000 * "é",
]  # fmt: skip


def check(url: str, fetch_allow: str = "", **asked: Any) -> None:
    check_outbound_url(url, fetch_allow, **asked)


@pytest.fixture(autouse=True)
def _no_resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL is judged as it is written without anybody being asked; tests that resolve bring their own."""

    def asked(*_: object, **__: object) -> None:
        raise AssertionError("the resolver was asked")

    monkeypatch.setattr(socket, "getaddrinfo", asked)


def resolver_says(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    def resolve(_: str, port: int, **__: Any) -> list[Any]:
        return [
            (socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in addresses
        ]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


@pytest.mark.parametrize("host", LOOPBACK_IN_EVERY_SPELLING)
@pytest.mark.parametrize("form", ["http://{}/", "HTTPS://{}", "https://{}:443/a?b#c", "http://{}:80", "http://{}:/"])
def test_loopback_is_forbidden_in_every_spelling(host: str, form: str) -> None:
    with pytest.raises(DestinationForbidden) as caught:
        check(form.format(host), param="image_url")
    assert caught.value.param == "image_url"


@pytest.mark.parametrize("address", FORBIDDEN_ADDRESSES)
def test_an_address_that_is_not_public_is_forbidden_as_it_is_written(address: str) -> None:
    with pytest.raises(DestinationForbidden):
        check(f"https://[{address}]/" if ":" in address else f"https://{address}/")


@pytest.mark.parametrize("address", FORBIDDEN_ADDRESSES)
def test_an_address_that_is_not_public_is_forbidden_behind_a_name(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    resolver_says(monkeypatch, address)
    with pytest.raises(DestinationForbidden) as caught:
        check_outbound_url("https://example.com/", "").addresses()
    assert address not in caught.value.message, "nobody is told what inner names mean"


@pytest.mark.parametrize("bad", ["10.0.0.1", "::1", "64:ff9b::7f00:1"])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_one_bad_address_among_good_ones_forbids_all(monkeypatch: pytest.MonkeyPatch, bad: str, at: int) -> None:
    answers = ["93.184.216.34", "2606:4700:4700::1111"]
    answers.insert(at, bad)
    resolver_says(monkeypatch, *answers)
    with pytest.raises(DestinationForbidden):
        check_outbound_url("https://example.com/", "").addresses()


@pytest.mark.parametrize("address", PUBLIC_ADDRESSES)
def test_a_public_address_may_be_connected_to(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    assert is_public(ip_address(address))
    check(f"http://[{address}]/" if ":" in address else f"http://{address}/")
    resolver_says(monkeypatch, address, address)
    assert check_outbound_url("https://example.com/", "").addresses() == [address]


@pytest.mark.parametrize("url", MALFORMED)
def test_what_is_no_url_is_an_invalid_parameter(url: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        check(url, param="callback_url")
    assert caught.value.param == "callback_url"


def test_a_password_in_a_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(InvalidParameter, match="no user name and no password") as caught:
        check("http://me:secret@example.com/")
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("port", [1, 22, 25, 79, 81, 444, 6379, 8000, 8080, 65535])
def test_other_ports_than_those_of_the_web_are_forbidden(port: int) -> None:
    with pytest.raises(DestinationForbidden):
        check(f"http://example.com:{port}/")


def test_callbacks_must_be_encrypted() -> None:
    check("https://example.com/", https_only=True)
    with pytest.raises(DestinationForbidden):
        check("http://example.com/", https_only=True)
    check("http://example.com/", "example.com", https_only=True)


@pytest.mark.parametrize(
    ("url", "at", "host", "header"),
    [
        ("http://Example.COM/a?b=c#d", "http://192.0.2.1:80/a?b=c", "example.com", "example.com"),
        ("https://example.com.", "https://192.0.2.1:443", "example.com", "example.com"),
        ("https://example.com:80/", "https://192.0.2.1:80/", "example.com", "example.com:80"),
        ("http://bücher.example//x", "http://192.0.2.1:80//x", "xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("http://a_b.example?@c", "http://192.0.2.1:80?@c", "a_b.example", "a_b.example"),
        ("http://[2606:4700::0:1]/", "http://192.0.2.1:80/", "2606:4700::1", "[2606:4700::1]"),
    ],
)
def test_whoever_connects_gets_the_address_and_the_name(url: str, at: str, host: str, header: str) -> None:
    destination = check_outbound_url(url, "")
    assert destination.url_at("192.0.2.1") == at
    assert (destination.host, destination.host_header) == (host, header)
    assert check_outbound_url("http://a/b", "").url_at("2606:4700::1") == "http://[2606:4700::1]:80/b"


@pytest.mark.parametrize(
    ("url", "fetch_allow"),
    [
        ("http://images.lan/a", "images.lan"),
        ("https://IMAGES.lan./a", " other , Images.LAN. ,"),
        ("http://images.lan:9000/a", "images.lan:9000"),
        ("http://127.1:9000/", "127.0.0.1:9000"),
        ("http://[::1]:9000/", "[0::1]:9000"),
        ("http://[::1]/", "[::1]"),
        ("http://bücher.lan/", "xn--bcher-kva.lan"),
        ("http://xn--bcher-kva.lan/", "bücher.lan"),
        ("http://localhost/", "localhost"),
    ],
)
def test_what_fetch_allow_names_may_have_any_address(
    monkeypatch: pytest.MonkeyPatch, url: str, fetch_allow: str
) -> None:
    resolver_says(monkeypatch, "127.0.0.1", "10.0.0.1")
    assert check_outbound_url(url, fetch_allow, https_only=True).addresses() == ["127.0.0.1", "10.0.0.1"]


@pytest.mark.parametrize(
    ("url", "fetch_allow"),
    [
        ("http://10.0.0.1:9000/", "10.0.0.1"),
        ("http://10.0.0.1/", "10.0.0.1:9000"),
        ("http://10.0.0.2/", "10.0.0.1"),
        ("http://a.localhost/", "localhost"),
        ("http://[::1]/", "127.0.0.1"),
        ("http://images.lan:9000/", "lan:9000"),
    ],
)
def test_fetch_allow_allows_nothing_else(url: str, fetch_allow: str) -> None:
    with pytest.raises(DestinationForbidden):
        check(url, fetch_allow)


def test_a_name_that_leads_to_an_allowed_host_is_not_allowed_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    resolver_says(monkeypatch, "10.0.0.1")
    with pytest.raises(DestinationForbidden):
        check_outbound_url("http://example.com/", "10.0.0.1").addresses()


@pytest.mark.parametrize(
    "fetch_allow", ["http://a/", "a:b", "a:0", "a:70000", "[::1", "::1", "10.0.0.0/8", "*.lan", "a b"]
)
def test_a_fetch_allow_that_would_allow_nothing_is_refused_at_the_start(fetch_allow: str) -> None:
    with pytest.raises(ValidationError):
        Settings(_env_file=None, fetch_allow=fetch_allow)


def test_a_host_is_one_however_it_is_written() -> None:
    assert host_of("https://Example.COM:8443/a") == host_of("https://example.com:8443/b") == "example.com:8443"
