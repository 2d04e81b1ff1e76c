"""Requests with two of what there is one of, and without a host, over a real port."""

import json
from collections.abc import Iterator

import pytest

from app.middleware.single_headers import SINGLE
from core.config.settings import Settings
from tests.app.test_slow_clients import answer_to, served


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with served(Settings(_env_file=None, data_dir=tmp_path_factory.mktemp("data"), redis_port=1)) as port:
        yield port


def told(port: int, path: str, *lines: str, version: str = "1.1", method: str = "GET") -> tuple[int, str | None]:
    """Return the status, and the code of an error. One answer comes, and no more."""
    head = "\r\n".join([f"{method} {path} HTTP/{version}", *lines, "Connection: close", "", ""])
    answer = answer_to(head.encode("latin-1"), port)
    assert answer.count(b"HTTP/1.1 ") == 1
    body = json.loads(answer.partition(b"\r\n\r\n")[2])
    return int(answer.split()[1]), body.get("error", {}).get("code") if isinstance(body, dict) else None


@pytest.mark.parametrize(
    "path", ["/tasks", "/v1/videos", "/v1/predictions", "/v2beta/nothing", "/mcp", "/health", "/nothing"]
)
@pytest.mark.parametrize(
    "hosts",
    [("localhost", "evil.example"), ("evil.example", "localhost"), ("localhost", "localhost"), ("", "localhost")],
)
def test_two_hosts_are_refused_whichever_comes_first(port: int, path: str, hosts: tuple[str, str]) -> None:
    first, second = hosts
    assert told(port, path, f"Host: {first}", "X-Between: 1", f"hOST: {second}") == (400, "header_invalid")


@pytest.mark.parametrize("name", sorted(set(SINGLE.values()) - {"Host"}))
def test_two_of_any_header_that_has_one_value_are_refused(port: int, name: str) -> None:
    one = ["Host: localhost", f"{name}: a"]
    assert told(port, "/tasks", *one)[1] != "header_invalid"
    for second in ("a", "b", ""):
        assert told(port, "/tasks", *one, f"{name.upper()}: {second}") == (400, "header_invalid")


def test_the_header_is_named_as_the_field_at_fault(port: int) -> None:
    head = b"GET /tasks HTTP/1.1\r\nHost: localhost\r\nx-api-key: a\r\nX-API-Key: b\r\nConnection: close\r\n\r\n"
    error = json.loads(answer_to(head, port).partition(b"\r\n\r\n")[2])["error"]
    assert (error["param"], error["message"]) == ("X-API-Key", "X-API-Key must be sent once; it came 2 times")


def test_without_a_host_a_request_is_refused(port: int) -> None:
    assert told(port, "/tasks") == (400, "header_invalid")
    assert told(port, "/healthy") == (400, "header_invalid")
    assert told(port, "/tasks", version="1.0") == (421, "host_unknown"), "HTTP/1.0 has none"


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_load_balancer_may_ask_after_health_without_one(port: int, version: str, method: str) -> None:
    for path, status in (("/health/live", b"200"), ("/health/live/", b"307"), ("/health", b"503")):
        answer = answer_to(f"{method} {path} HTTP/{version}\r\nConnection: close\r\n\r\n".encode(), port)
        assert answer.split()[1] == status, path


BODIES = {
    "two lengths": b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "two lengths that differ": b"Content-Length: 2\r\nContent-Length: 30\r\n\r\n{}",
    "a list of lengths": b"Content-Length: 2, 2\r\n\r\n{}",
    "a signed length": b"Content-Length: +2\r\n\r\n{}",
    "a length and chunks": b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "chunks and a length": b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "chunks before another coding": b"Transfer-Encoding: chunked, gzip\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "a name with a space": b"Content-Length : 2\r\n\r\n{}",
    "a folded line": b"X-A: a\r\n b\r\nContent-Length: 2\r\n\r\n{}",
}


@pytest.mark.parametrize("body", BODIES)
def test_a_body_whose_end_two_servers_could_see_in_two_places_is_refused(port: int, body: str) -> None:
    head = b"POST /v1/predictions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    smuggled = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    answer = answer_to(head + BODIES[body] + smuggled, port)
    assert answer.split()[1] == b"400", answer
    assert answer.count(b"HTTP/1.1 ") == 1
