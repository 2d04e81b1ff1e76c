"""The port of a worker's metrics, and who only connects to it."""

import contextlib
import resource
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx2
import psutil
import pytest
from prometheus_client import CollectorRegistry, Gauge

from harness.pictures import SAMPLES
from harness.servers import free_port, wait_until
from harness.stack import running_stack
from worker import metrics_server
from worker.metrics_server import MAX_CONNECTIONS, MetricsServer

MANY = 400
FEW_FILES = 200


@contextlib.contextmanager
def connections(port: int, count: int) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as held:
        yield [held.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30)) for _ in range(count)]


def scraped(port: int) -> str:
    """What a patient scraper is told: it asks again if it is not answered."""
    said: list[str] = []

    def asks() -> bool:
        with contextlib.suppress(httpx2.TransportError):
            said.append(httpx2.get(f"http://127.0.0.1:{port}/metrics", timeout=30).text)
        return bool(said)

    wait_until(asks, what="an answer")
    return said[0]


def test_a_worker_to_which_hundreds_connect_makes_its_clip_and_is_scraped(tmp_path: Path) -> None:
    with running_stack(tmp_path) as stack:
        (worker,) = stack.client.get("/health").json()["queues"]["cpu"]["workers"]
        process = psutil.Process(stack.processes["worker-cpu"].pid)
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (FEW_FILES, FEW_FILES))
        threads = process.num_threads()
        with connections(worker["metrics_port"], MANY):
            stack.finish(stack.upload(SAMPLES / "cat.jpg", width=64, height=64, num_frames=2))
            assert 'outcome="finished"} 1.0' in scraped(worker["metrics_port"])
            assert process.num_threads() < threads + 50  # those of the clip
            assert process.num_fds() < FEW_FILES / 2
        assert stack.kill("worker-cpu", signal.SIGTERM) == 0


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def port(registry: CollectorRegistry) -> int:
    port = free_port()
    MetricsServer(registry).start("127.0.0.1", port)
    return port


def test_one_more_closes_the_oldest_and_nobody_else(port: int) -> None:
    with connections(port, MAX_CONNECTIONS) as held:
        for each in held:  # all of them are taken
            each.sendall(b"GET /")
        with connections(port, 1) as (newest,):
            with contextlib.suppress(ConnectionResetError):
                assert held[0].recv(1) == b""
            for each in (held[1], newest):
                each.sendall(b" HTTP/1.1\r\n\r\n" if each is held[1] else b"GET / HTTP/1.1\r\n\r\n")
                assert each.recv(15) == b"HTTP/1.0 200 OK"


@pytest.mark.parametrize(
    "sent", [b"", b"GET /metrics HTTP/1.1\r\nHost: a", b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"]
)
def test_who_neither_asks_nor_reads_is_let_go(
    port: int, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(metrics_server, "ANSWER_SECONDS", 2.0)
    Gauge("large", "More than the kernel keeps", ["much"], registry=registry).labels("x" * 30_000_000)
    with connections(port, 1) as (held,):
        wait_until(lambda: not is_over(port, held), what="the connection to be taken")
        held.sendall(sent)
        wait_until(lambda: is_over(port, held), what="the end of the connection")


def is_over(port: int, held: socket.socket) -> bool:
    """Whether the server has given it up: it is in no state any more in which one of both still holds it."""
    states = [each.status for each in psutil.Process().net_connections("tcp") if each.laddr[1] == port and each.raddr]
    return psutil.CONN_ESTABLISHED not in states


def test_it_answers_as_scrapers_know_it(port: int, registry: CollectorRegistry) -> None:
    Gauge("kinora_one", "One", registry=registry).set(1)
    Gauge("kinora_two", "Two", registry=registry).set(2)
    url = f"http://127.0.0.1:{port}/metrics"
    assert "kinora_one 1.0" in httpx2.get(url).text
    assert "kinora_two" not in httpx2.get(url, params={"name[]": "kinora_one"}).text
    assert httpx2.get(url, headers={"Accept-Encoding": "gzip"}).headers["Content-Encoding"] == "gzip"
    openmetrics = httpx2.get(url, headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert openmetrics.headers["Content-Type"].startswith("application/openmetrics-text")
    assert openmetrics.text.endswith("# EOF\n")
    assert httpx2.post(url, content=b"x").status_code == 501


@pytest.mark.parametrize("sent", [b"\x00\xff\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"x" * 100_000])
def test_what_is_no_request_ends_its_own_connection_alone(port: int, sent: bytes) -> None:
    with connections(port, 1) as (held,), contextlib.suppress(ConnectionError):
        held.sendall(sent)
        while held.recv(1000):
            pass
    assert httpx2.get(f"http://127.0.0.1:{port}/metrics").status_code == 200


def test_a_long_answer_comes_whole(port: int, registry: CollectorRegistry) -> None:
    Gauge("large", "More than the kernel keeps", ["much"], registry=registry).labels("x" * 30_000_000)
    assert (
        len(httpx2.get(f"http://127.0.0.1:{port}/metrics", headers={"Accept-Encoding": "identity"}).text) > 30_000_000
    )
