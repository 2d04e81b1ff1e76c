"""Clients that send and read as slowly as they can, against a real server on a real port."""

import asyncio
import contextlib
import json
import logging
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import uvicorn
from starlette.types import Message, Receive, Scope, Send

from app.main import create_app
from app.middleware import slow_clients
from app.middleware.slow_clients import KEEP_ALIVE_SECONDS, MANY_PIECES, BoundedHttp, SlowClients
from core.config.settings import Settings
from core.ledger.moves import Ledger
from harness.pictures import SAMPLES
from harness.servers import free_port, wait_until
from harness.stack import ROOT

SOON = 0.3
LIVE = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
LAST = LIVE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
BIG = b"GET /static-offline-docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n"
UPLOAD = b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
PART = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'

UPGRADE = (
    b"GET /tasks HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade, close\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@pytest.fixture
def server(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[uvicorn.Server]:
    for name in ("HEAD_SECONDS", "WINDOW_SECONDS", "READ_SECONDS"):
        monkeypatch.setattr(slow_clients, name, SOON)
    server = uvicorn.Server(
        uvicorn.Config(create_app(settings), port=0, http=BoundedHttp, log_config=None, access_log=False)
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started, 30, "the server")
    yield server
    server.should_exit = True
    thread.join(30)


@pytest.fixture
def connect(server: uvicorn.Server) -> Iterator[Callable[[], socket.socket]]:
    address = address_of(server)
    opened: list[socket.socket] = []

    def connect() -> socket.socket:
        opened.append(socket.create_connection(address, timeout=20))
        return opened[-1]

    yield connect
    for connection in opened:
        connection.close()


def all_of(connection: socket.socket) -> bytes:
    """What comes until the server closes the connection."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(65536):
            found += piece
    return found


def sent_until_let_go(connection: socket.socket, piece: bytes, enough: int = 50_000_000) -> int:
    sent = 0
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        while sent < enough:
            connection.sendall(piece)
            sent += len(piece)
    return sent


def test_a_client_that_says_nothing_is_let_go(connect: Callable[[], socket.socket]) -> None:
    assert all_of(connect()).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"", 408, "request_timeout"),
        (b"nonsense\r\n\r\n", 400, "bad_request"),
        (b"GET /tasks HTTP/1.1\r\nTransfer-Encoding: dneO;\r\n\r\n", 400, "bad_request"),
        (b"GET /tasks HTTP/1.1\r\nX: " + b"x" * 400_000, 431, "too_many_headers"),
    ],
)
def test_what_is_no_request_yet_is_refused_in_our_words(
    connect: Callable[[], socket.socket], sent: bytes, status: int, code: str
) -> None:
    connection = connect()
    connection.sendall(sent)
    head, _, body = all_of(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert f"content-length: {len(body)}".encode() in head.lower()
    assert json.loads(body)["error"]["code"] == code


def test_nonsense_behind_a_request_takes_its_answer_from_nobody(connect: Callable[[], socket.socket]) -> None:
    """No answer, or that of the first: never one that the first would take for its own."""
    connection = connect()
    connection.sendall(b"GET /tasks HTTP/1.1\r\nHost: localhost\r\n\r\nnonsense\r\n\r\n")
    assert not all_of(connection).startswith(b"HTTP/1.1 400")


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
    connection.sendall(LIVE)
    assert b'"ok"' in connection.recv(65536)
    connection.sendall(b"\r\nGET /hea")
    assert all_of(connection).startswith(b"HTTP/1.1 408")


def test_headers_without_end_are_refused(connect: Callable[[], socket.socket]) -> None:
    connection = connect()
    connection.sendall(b"GET /tasks HTTP/1.1\r\nHost: localhost\r\nX-Long: ")
    assert sent_until_let_go(connection, b"x" * 4096) < 50_000_000  # it was refused long before


def test_a_body_that_stops_coming_is_given_up(connect: Callable[[], socket.socket]) -> None:
    connection = connect()
    connection.sendall(UPLOAD + b"Content-Length: 1000\r\n\r\n--x\r\n")
    answer = all_of(connection)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"request_timeout" in answer


def test_a_client_that_does_not_read_is_let_go(connect: Callable[[], socket.socket], server: uvicorn.Server) -> None:
    connections = [connect() for _ in range(5)]
    for connection in connections:
        connection.sendall(BIG * 20)  # some 30 MB to read
    wait_until(lambda: len(server.server_state.tasks) == 5, what="the answers")
    wait_until(lambda: not server.server_state.connections and not server.server_state.tasks, what="their end")
    assert all_of(connections[0]).count(b"HTTP/1.1 200") < 20


def test_a_client_that_leaves_ends_the_answer_before_the_last(
    connect: Callable[[], socket.socket], server: uvicorn.Server, caplog: pytest.LogCaptureFixture
) -> None:
    connection = connect()
    connection.sendall(BIG * 20)
    wait_until(lambda: server.server_state.tasks, what="the answer")
    connection.close()
    wait_until(lambda: not server.server_state.connections and not server.server_state.tasks, what="its end")
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize(
    "head",
    [BIG * 20 + b"GET / HTTP/1.1\r\n", UPLOAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n-\r\n0\r\n"],
    ids=["pipelined", "trailers"],
)
@pytest.mark.parametrize("more", [b"X-More: " + b"x" * 4000 + b"\r\n", b"x" * 4000], ids=["lines", "one line"])
def test_headers_without_end_are_refused_while_an_answer_is_under_way(
    connect: Callable[[], socket.socket], monkeypatch: pytest.MonkeyPatch, head: bytes, more: bytes
) -> None:
    for name in ("WINDOW_SECONDS", "READ_SECONDS"):
        monkeypatch.setattr(slow_clients, name, 60)
    connection = connect()
    connection.sendall(head)
    assert sent_until_let_go(connection, more) < 50_000_000


def test_a_pipeline_without_end_is_refused(
    connect: Callable[[], socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slow_clients, "READ_SECONDS", 60)
    connection = connect()
    connection.sendall(BIG)
    assert sent_until_let_go(connection, b"GET / HTTP/1.1\r\n\r\n" * 1000) < 50_000_000


def test_a_pipelined_body_may_take_longer_than_a_head(connect: Callable[[], socket.socket]) -> None:
    connection = connect()
    body = PART + b"x" * 400_000 + b"\r\n--x--\r\n"
    connection.sendall(LIVE + UPLOAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body))
    for start in range(0, len(body), 40_000):
        threading.Event().wait(SOON / 4)
        connection.sendall(body[start : start + 40_000])
    answers = all_of(connection)
    assert answers.startswith(b"HTTP/1.1 200")
    assert b"image_unsupported" in answers


WEBHOOK = b"POST /webhooks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(("head", "beginning"), [(UPLOAD, PART), (WEBHOOK, b"{")], ids=["form", "JSON"])
def test_a_body_that_comes_too_slowly_is_given_up(
    connect: Callable[[], socket.socket], head: bytes, beginning: bytes
) -> None:
    """A byte now and then would keep an upload's place from others for ten minutes."""
    connection = connect()
    connection.sendall(head + b"Content-Length: 50000\r\n\r\n" + beginning)
    with contextlib.suppress(ConnectionError):
        for _ in range(30):
            connection.sendall(b" ")
            threading.Event().wait(SOON / 4)
    assert all_of(connection).startswith(b"HTTP/1.1 408")


def test_a_body_in_thousands_of_chunks_of_a_byte_is_given_up(connect: Callable[[], socket.socket]) -> None:
    """Each takes as long as a chunk of 64 KB. Lines of base64 are not as short."""
    head = UPLOAD.replace(b"multipart/form-data; boundary=x", b"application/json\r\nTransfer-Encoding: chunked\r\n")
    for length, is_answered in ((1, False), (76, True)):
        connection = connect()
        chunk = b"%x\r\n%b\r\n" % (length, b"a" * length)
        connection.sendall(head)
        with contextlib.suppress(ConnectionError):
            connection.sendall(chunk * (MANY_PIECES // 2))
            connection.sendall(chunk * (MANY_PIECES // 2 + 1) + b"0\r\n\r\n")
        assert (b"HTTP/1.1 413" in all_of(connection)) == is_answered


def test_a_server_that_is_slow_itself_blames_no_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow_clients, "WINDOW_SECONDS", SOON)
    came = []

    async def slow(_scope: Scope, receive: Receive, _send: Send) -> None:
        while (message := await receive())["more_body"]:
            came.append(message["body"])
            await asyncio.sleep(SOON)

    pieces = iter([True, True, True, False])

    async def receive() -> Message:
        return {"type": "http.request", "body": b"x", "more_body": next(pieces)}

    async def send(_message: Message) -> None:
        return

    asyncio.run(SlowClients(slow)({"type": "http", "headers": []}, receive, send))
    assert came == [b"x"] * 3


def lives(connection: socket.socket) -> bool:
    """Whether a request on this connection is answered as it should be."""
    connection.sendall(LIVE)
    found = b""
    while not found.endswith(b'{"status":"ok"}') and (piece := connection.recv(65536)):
        found += piece
    return found.startswith(b"HTTP/1.1 200")


@contextlib.contextmanager
def served(settings: Settings) -> Iterator[int]:
    """The port of `python -m app`."""
    port = free_port()
    environment = {"DATA_DIR": str(settings.data_dir), "REDIS_PORT": str(settings.redis_port), "API_PORT": str(port)}
    server = subprocess.Popen([sys.executable, "-m", "app"], env=environment, cwd=SAMPLES.parent)
    try:
        wait_until(lambda: answer_to(LAST, port), 60, "the API server")
        yield port
    finally:
        server.terminate()
        server.wait(30)


def answer_to(request: bytes, port: int) -> bytes:
    """All that comes on a connection of its own, which the server closes."""
    with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), 20) as connection:
        connection.sendall(request)
        return all_of(connection)
    return b""


def test_an_upgrade_meets_the_same_layers_as_any_request(settings: Settings) -> None:
    ledger = Ledger(settings.resolved_database_url)
    ledger.migrate()
    ledger.keys.create("ann")
    ledger.close()
    with served(settings) as port:
        answer = answer_to(UPGRADE, port)
    assert answer.startswith(b"HTTP/1.1 401")
    assert b"x-request-id: " in answer.lower()


def test_health_answers_a_prober_that_names_no_host(settings: Settings) -> None:
    with served(settings) as port:
        for head in (b"HTTP/1.0\r\n\r\n", b"HTTP/1.1\r\nConnection: close\r\n\r\n"):
            answer = answer_to(b"GET /health " + head, port)
            assert answer.startswith(b"HTTP/1.1 503")
            assert b'"status":"degraded"' in answer


def test_a_connection_stays_for_a_client_that_asks_every_few_seconds(settings: Settings) -> None:
    with served(settings) as port, socket.create_connection(("127.0.0.1", port), 20) as connection:
        for pause in (0, 6):  # longer than servers and clients keep one by default
            threading.Event().wait(pause)
            assert lives(connection)


def test_an_idle_connection_is_kept_for_longer_than_by_the_proxy_that_has_it() -> None:
    """75 s, as the documents say, and the process that serves gives it to its server."""
    keeps = re.search(r"keepalive (\d+)s", (ROOT / "deploy/proxy/Caddyfile").read_text())
    assert keeps is not None
    assert int(keeps[1]) < KEEP_ALIVE_SECONDS
    assert f"stays open for {KEEP_ALIVE_SECONDS} s" in (ROOT / "docs/api.md").read_text()
    assert f"nothing was asked for {KEEP_ALIVE_SECONDS} s" in (ROOT / "docs/security.md").read_text()


def test_the_server_is_told_how_long_to_keep_an_idle_connection(settings: Settings) -> None:
    told = "import uvicorn, app.__main__; uvicorn.run = lambda *_, **given: print(given['timeout_keep_alive'])"
    environment = {"DATA_DIR": str(settings.data_dir), "API_PORT": str(free_port())}
    command = [sys.executable, "-c", f"{told}; app.__main__.main()"]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == f"{KEEP_ALIVE_SECONDS}\n", done.stderr


@pytest.fixture
def full_server(settings: Settings) -> Iterator[uvicorn.Server]:
    """One that three connections fill: the fourth is answered 503, or takes the place of an idle one."""
    app = create_app(settings)
    config = uvicorn.Config(
        app, port=0, http=BoundedHttp, log_config=None, access_log=False, limit_concurrency=4, timeout_keep_alive=75
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started, 30, "the server")
    yield server
    server.should_exit = True
    thread.join(30)


def address_of(server: uvicorn.Server) -> tuple[str, int]:
    found: tuple[str, int] = server.servers[0].sockets[0].getsockname()
    return found


def is_kept(server: uvicorn.Server, connection: socket.socket) -> bool:
    """Whether the server has ended its answer, which is a moment after the last byte of it has come."""
    client = connection.getsockname()
    return any(each.client == client and each._is_kept() for each in list(server.server_state.connections))


def test_the_connection_that_is_idle_for_longest_makes_place_for_a_new_one(full_server: uvicorn.Server) -> None:
    address = address_of(full_server)
    with contextlib.ExitStack() as opened:
        kept = [opened.enter_context(socket.create_connection(address, timeout=20)) for _ in range(3)]
        for connection in (kept[1], kept[0], kept[2]):
            assert lives(connection)
            wait_until(lambda: is_kept(full_server, connection), what="the end of the answer")  # noqa: B023 - at once
            time.sleep(0.01)  # the server's clock counts in milliseconds
        for _ in range(2):
            newcomer = opened.enter_context(socket.create_connection(address, timeout=20))
            assert lives(newcomer)
        assert [kept[number].recv(65536) for number in (1, 0)] == [b"", b""]
        assert lives(kept[2])


def test_the_oldest_unfinished_head_makes_place_for_a_new_connection(full_server: uvicorn.Server) -> None:
    address = address_of(full_server)
    with contextlib.ExitStack() as opened:
        heads = []
        for number in range(3):
            heads.append(opened.enter_context(socket.create_connection(address, timeout=20)))
            heads[-1].sendall(b"GET / HTTP/1.1\r\n")
            connected = number + 1
            wait_until(lambda: len(full_server.server_state.connections) == connected, what="it")  # noqa: B023 - at once
            time.sleep(0.01)  # the server's clock counts in milliseconds
        newcomer = opened.enter_context(socket.create_connection(address, timeout=20))
        assert lives(newcomer)
        assert all_of(heads[0]).startswith(b"HTTP/1.1 408"), "it came first"
        another = opened.enter_context(socket.create_connection(address, timeout=20))
        assert lives(another)
        assert all_of(newcomer) == b"", "who only keeps a place goes before who asks"
        for head in heads[1:]:
            head.sendall(LAST.partition(b"\r\n")[2])
            assert all_of(head).startswith(b"HTTP/1.1 200")


def test_a_connection_at_work_makes_place_for_nobody(full_server: uvicorn.Server) -> None:
    address = address_of(full_server)
    with contextlib.ExitStack() as opened:
        busy = [opened.enter_context(socket.create_connection(address, timeout=20)) for _ in range(3)]
        for connection in busy:
            connection.sendall(UPLOAD + b"Content-Length: 1000\r\n\r\n--x\r\n")
        assert answer_to(LAST, address[1]).startswith(b"HTTP/1.1 503")
        for connection in busy:
            connection.sendall(b"\0" * 995)
            assert connection.recv(65536).startswith(b"HTTP/1.1 400")


def test_the_others_are_served_meanwhile(connect: Callable[[], socket.socket]) -> None:
    idle = [connect() for _ in range(100)]
    connection = connect()
    connection.sendall(LAST)
    assert all_of(connection).startswith(b"HTTP/1.1 200")
    assert all(all_of(waiting).startswith(b"HTTP/1.1 408") for waiting in idle)
