"""The whole service as processes that are started again when they die, as a supervisor would."""

import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from harness.log_check import REDIS_FAULTS
from harness.provider import Provider
from harness.servers import PostgresServer, RedisServer, free_port
from harness.stack import Stack

LEASE_SECONDS = 3.0
WORKERS = ("worker-1", "worker-2", "worker-3")
NET_WORKERS = ("net-worker-1", "net-worker-2")


ENDS_OF_THE_KILLED = {-signal.SIGKILL, -signal.SIGTERM, 0}  # the second: told to stop before it listened


@dataclass(frozen=True)
class Death:
    """A worker's process that ended, or froze."""

    pid: int
    at: float


@dataclass(frozen=True)
class Trouble:
    """Something other than a worker was broken, and when it was well again."""

    fault: str
    begun: float
    over: float


class Service(Stack):
    def __init__(
        self, folder: Path, redis: RedisServer, postgres: PostgresServer | None, provider: Provider | None = None
    ) -> None:
        """Without `provider` there is nobody for steps of the lane `net`."""
        settings = {"LEASE_SECONDS": str(LEASE_SECONDS), "SHUTDOWN_GRACE": "1", "ENGINE": "preview"}
        self.receiver_port = free_port()
        settings["FETCH_ALLOW"] = f"127.0.0.1:{self.receiver_port}"
        if postgres:
            settings["DATABASE_URL"] = postgres.url
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        super().__init__(folder, redis, TMPDIR=str(self.temporary), **settings)
        self.announced |= REDIS_FAULTS
        self.postgres, self.provider = postgres, provider
        self.workers = (*WORKERS, *(NET_WORKERS if provider else ()))
        self.points = folder / "points"
        self.points.mkdir()
        self.deaths: list[Death] = []
        self.troubles: list[Trouble] = []
        self.ends: list[tuple[str, int, int]] = []
        """Of every process that was started again: its name, its pid, its exit code."""
        self._hit: set[int] = set()
        self._held_down: set[str] = set()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._watch = threading.Thread(target=self._keep_up, name="supervisor")

    def __enter__(self) -> "Service":
        for name in ("app", "keeper", *self.workers):
            self._start(name)
        self._watch.start()
        self.wait_until_ready()
        return self

    def __exit__(self, *_: object) -> None:
        """Asks for no crashes: who has done harm asks himself, once it is over."""
        self._ended.set()
        self._watch.join()
        self.stop()

    @property
    def hit(self) -> set[int]:
        """The processes that were sent a signal, here or at a point."""
        taken = self.points / "hit"
        return self._hit | {int(pid) for pid in (taken.read_text().split() if taken.exists() else ())}

    def signs_of_life(self) -> list[Path]:
        """Of keepers: there is one once the keeper that was started last is at work."""
        return list(self.temporary.glob("kinora-keeper-*/alive"))

    def crashes(self) -> list[str]:
        hit = self.hit
        ends = [(name, code) for name, pid, code in self.ends if pid not in hit or code not in ENDS_OF_THE_KILLED]
        return [f"{name} ended by itself with {code}" for name, code in ends] + super().crashes()

    def leave_in_order(self) -> list[int]:
        """Tell every process to stop, and give the exit codes."""
        self._ended.set()
        self._watch.join()
        for process in self.processes.values():
            process.terminate()
        return [process.wait(30) for process in self.processes.values()]

    def send(self, name: str, how: signal.Signals, hold_down: bool = False) -> None:
        """Signal a process; `hold_down` keeps it from being started again until `release`."""
        with self._lock:
            if hold_down:
                self._held_down.add(name)
            process = self.processes[name]
            if how in (signal.SIGSTOP, signal.SIGKILL) and name in self.workers:  # whoever watches may notice later
                self.deaths.append(Death(process.pid, time.time()))
            self._hit.add(process.pid)
            process.send_signal(how)

    def release(self, name: str) -> None:
        with self._lock:
            self._held_down.discard(name)

    def _start(self, name: str) -> None:
        if name == "keeper":
            for sign in self.signs_of_life():
                sign.unlink()
        kinds = ["chaos.steps", self.provider.url] if self.provider else []
        if name in WORKERS:
            # All but one as on a GPU: what goes on beside the next step is what can go wrong in more ways.
            overlap = ["--overlap"] if name != WORKERS[-1] else []
            gate = ["harness.gate", str(self.gate.folder), *overlap, "--queue", "cpu"]
            command = ["worker", *kinds, *gate]
        elif name in NET_WORKERS:
            command = ["net worker", *kinds, "worker", "--queue", "net"]
        else:
            command = [name, name]
        self.start(name, "chaos.points", str(self.points), *command)

    def _keep_up(self) -> None:
        while not self._ended.wait(0.02):
            with self._lock:
                for name, process in list(self.processes.items()):
                    if process.poll() is None or name in self._held_down:
                        continue
                    if name in self.workers:
                        self.deaths.append(Death(process.pid, time.time()))
                    self.ends.append((name, process.pid, process.returncode))
                    self._start(name)
