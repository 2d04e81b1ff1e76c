"""Clients that send and read as slowly as they can, against a real server on a real port."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
import uvicorn

from app import slow_clients
from app.main import create_app
from app.slow_clients import BoundedHttp
from core.config import Settings
from tests.servers import wait_until

SOON = 0.3


@pytest.fixture
def connect(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], socket.socket]]:
    for name in ("HEAD_SECONDS", "BODY_PAUSE_SECONDS", "READ_SECONDS"):
        monkeypatch.setattr(slow_clients, name, SOON)
    server = uvicorn.Server(
        uvicorn.Config(create_app(settings), port=0, http=BoundedHttp, log_config=None, access_log=False)
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started, 30, "the server")
    address = server.servers[0].sockets[0].getsockname()
    opened: list[socket.socket] = []

    def connect() -> socket.socket:
        opened.append(socket.create_connection(address, timeout=20))
        return opened[-1]

    yield connect
    for connection in opened:
        connection.close()
    server.should_exit = True
    thread.join(30)


def all_of(connection: socket.socket) -> bytes:
    """What comes until the server closes the connection."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(65536):
            found += piece
    return found


def test_a_client_that_says_nothing_is_let_go(connect: Callable[[], socket.socket]) -> None:
    assert all_of(connect()).startswith(b"HTTP/1.1 408")


def test_a_client_whose_headers_trickle_is_let_go(connect: Callable[[], socket.socket]) -> None:
    connection = connect()
    connection.sendall(b"GET /tasks HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
    let_go = False
    for _ in range(2000):
        threading.Event().wait(0.02)
        try:
            connection.sendall(b"x")
        except (BrokenPipeError, ConnectionResetError):
            let_go = True
            break
    assert let_go


def test_a_second_request_on_a_connection_is_bounded_too(connect: Callable[[], socket.socket]) -> None:
    connection = connect()
    connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert b'"ok"' in connection.recv(65536)
    connection.sendall(b"\r\nGET /hea")
    assert all_of(connection).startswith(b"HTTP/1.1 408")


def test_headers_without_end_are_refused(connect: Callable[[], socket.socket]) -> None:
    connection = connect()
    connection.sendall(b"GET /tasks HTTP/1.1\r\nHost: localhost\r\nX-Long: ")
    sent = 0
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        for _ in range(20_000):
            connection.sendall(b"x" * 4096)
            sent += 4096
    assert sent < 20_000 * 4096  # it was refused long before


def test_a_body_that_stops_coming_is_given_up(connect: Callable[[], socket.socket]) -> None:
    connection = connect()
    head = b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    connection.sendall(head + b"Content-Length: 1000\r\n\r\n--x\r\n")
    answer = all_of(connection)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"request_timeout" in answer


def test_a_client_that_does_not_read_is_let_go(connect: Callable[[], socket.socket], settings: Settings) -> None:
    connection = connect()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    request = b"GET /static-offline-docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n"
    connection.sendall(request * 20)  # some 30 MB to read
    threading.Event().wait(5 * SOON)
    whole = all_of(connection)
    assert whole.count(b"HTTP/1.1 200") < 20
    assert len(whole) < 20_000_000


def test_the_others_are_served_meanwhile(connect: Callable[[], socket.socket]) -> None:
    idle = [connect() for _ in range(100)]
    connection = connect()
    connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert all_of(connection).startswith(b"HTTP/1.1 200")
    assert all(all_of(waiting).startswith(b"HTTP/1.1 408") for waiting in idle)
