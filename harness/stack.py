"""The whole service as its own processes, for tests that kill, freeze and restart them."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil

from core.process.no_proxy import reach_loopback_directly
from harness.gate import Gate
from harness.log_check import crashes_in
from harness.servers import RedisServer, free_port, wait_until

ROOT = Path(__file__).parent.parent


class Stack:
    def __init__(self, folder: Path, redis: RedisServer, **settings: str) -> None:
        self.folder, self.redis = folder, redis
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.announced: set[str] = set()
        """What `crashes` passes over, as patterns of how it begins: a test that provokes one says so."""
        reach_loopback_directly()
        self.environment = os.environ | {
            "DATA_DIR": str(folder / "data"),
            "API_PORT": str(self.port),
            "REDIS_PORT": str(redis.port),
            "WORKER_METRICS_PORT": str(free_port()),
            "LEASE_SECONDS": "3",
            "LOG_FORMAT": "console",
            **settings,
        }
        self.client = httpx2.Client(base_url=self.url, timeout=30)
        self.gate = Gate(folder / "gate")
        self.queues: tuple[str, ...] = ()

    def start(self, name: str, *command: str, **settings: str) -> None:
        """`name` is what to kill it by; `command` is what follows `python -m`."""
        log = (self.folder / f"{name}.log").open("ab")
        environment = self.environment | settings
        self.processes[name] = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=ROOT, env=environment, stdout=log, stderr=log
        )
        log.close()

    def start_worker(self, name: str = "worker-cpu", *options: str, queue: str = "cpu", **settings: str) -> None:
        """One whose attempts wait at `gate`. harness/gate.py has the options."""
        self.start(name, "harness.gate", str(self.gate.folder), *options, "--queue", queue, **settings)

    def start_all(self, *queues: str) -> "Stack":
        self.queues = queues or ("cpu",)
        self.start_missing()
        self.wait_until_ready()
        return self

    def start_missing(self) -> None:
        for name in ("app", "keeper"):
            if name not in self.processes:
                self.start(name, name)
        for queue in self.queues:
            if f"worker-{queue}" not in self.processes:
                self.start_worker(f"worker-{queue}", queue=queue)

    def restore(self) -> None:
        """Undo what a test did: an open gate, nothing under way, and exactly the processes of the beginning."""
        self.gate.open()
        if self.redis.process.poll() is not None:
            self.redis.start()
        for name, process in list(self.processes.items()):
            process.send_signal(signal.SIGCONT)
            if process.poll() is not None or name not in (
                "app",
                "keeper",
                *(f"worker-{queue}" for queue in self.queues),
            ):
                self.kill(name, signal.SIGTERM)
        self.start_missing()
        self.wait_until_ready()
        for status in ("queued", "started"):
            for task in self.client.get("/tasks", params={"status": status, "limit": 200}).json()["tasks"]:
                self.client.post(f"/cancel/{task['task_id']}")

    def wait_until_ready(self, seconds: float = 60) -> None:
        def ready() -> bool:
            with contextlib.suppress(httpx2.TransportError):
                return self.client.get("/health").status_code == 200
            return False

        wait_until(ready, seconds, "a healthy stack")

    def kill(self, name: str, how: signal.Signals = signal.SIGKILL, then: Callable[[], object] = lambda: None) -> int:
        """Returns the exit code. `then` is called when the process has been told, and before it ends."""
        process = self.processes.pop(name)
        process.send_signal(how)
        then()
        return process.wait(30)

    def crashes(self) -> list[str]:
        """What no log may hold, and every process that ended by itself, but in order. Nothing that was announced."""
        codes = {name: process.poll() for name, process in self.processes.items()}
        ended = [f"{name} ended with {code}" for name, code in codes.items() if code]
        own = [crash for crash in ended if not any(re.match(pattern, crash) for pattern in self.announced)]
        return own + crashes_in(self.folder, self.announced)

    def require_no_crash(self) -> None:
        found = self.crashes()
        assert not found, "\n".join(["a crash that nobody announced:", *found])

    def __enter__(self) -> "Stack":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.require_no_crash()
        finally:
            self.stop()

    def stop(self) -> None:
        self.client.close()
        started = [psutil.Process(process.pid) for process in self.processes.values() if process.poll() is None]
        for each in [child for process in started for child in process.children(recursive=True)] + started:
            with contextlib.suppress(psutil.NoSuchProcess):  # several API servers outlive the one that started them
                each.kill()
        for process in self.processes.values():
            process.wait()

    def upload(self, picture: Path, **fields: Any) -> str:
        response = self.client.post("/generate", files={"file": picture.read_bytes()}, data=fields)
        assert response.status_code == 202, response.text
        return str(response.json()["task_id"])

    def status(self, task_id: str) -> dict[str, Any]:
        return dict(self.client.get(f"/status/{task_id}").json())

    def wait_for(self, task_id: str, *statuses: str, timeout: float = 60) -> dict[str, Any]:
        wanted = statuses or ("finished", "failed", "canceled")
        give_up = time.monotonic() + timeout
        while (body := self.status(task_id))["status"] not in wanted:
            if time.monotonic() > give_up:
                logs = "\n".join(path.read_text()[-2000:] for path in self.folder.glob("*.log"))
                raise TimeoutError(f"{task_id} is {body['status']}, not {wanted}\n{logs}")
            time.sleep(0.05)
        return body

    def wait_for_phase(self, task_id: str, phase: str = "render") -> None:
        wait_until(lambda: (self.status(task_id)["step"] or {}).get("phase") == phase, 30, f"the phase {phase}")

    def finish(self, task_id: str, timeout: float = 60) -> None:
        """Wait for a task that must not end otherwise."""
        body = self.wait_for(task_id, timeout=timeout)
        assert body["status"] == "finished", body

    def video(self, task_id: str) -> bytes:
        response = self.client.get(f"/results/{task_id}")
        assert response.status_code == 200, response.text
        return response.content


@contextlib.contextmanager
def running_stack(folder: Path, *queues: str, guarded: bool = False, **settings: str) -> Iterator[Stack]:
    """`guarded`: with a password and an ACL in Redis. Raises AssertionError for a crash that was not announced."""
    with RedisServer(guarded) as redis:
        if guarded:
            settings["REDIS_PASSWORD_FILE"] = str(redis.password_file)
        with Stack(folder, redis, **settings) as stack:
            yield stack.start_all(*queues)


@contextlib.contextmanager
def restored(stack: Stack) -> Iterator[Stack]:
    """For a stack that the tests of a file share: after each it is as it was before. Raises AssertionError for a crash
    that the test did not announce."""
    yield stack
    try:
        stack.require_no_crash()
    finally:
        stack.restore()
