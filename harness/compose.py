"""The stack of the compose files, driven from outside as an operator does it: commands, HTTP, the README's lines.

The command is `docker compose`, or what the environment variable COMPOSE says.
"""

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import yaml

from core.process.no_proxy import reach_loopback_directly
from harness.log_check import REDIS_FAULTS, crashes, entries
from harness.servers import free_port, wait_until

ROOT = Path(__file__).parents[1]
CPU_FILE = "docker-compose.cpu.yml"
SHIPPED = ["Dockerfile.api", "Dockerfile.worker", "docker-compose.yml", CPU_FILE, ".dockerignore", "requirements"]
SHIPPED += ["app", "core", "keeper", "sandbox", "worker", "deploy"]
README_ADDRESS = "http://127.0.0.1:8000"
FINAL = ("finished", "failed", "canceled")
OURS = ("api", "worker", "keeper")

# What the caller may have set for a project of their own.
COMPOSE_VARIABLES = ("COMPOSE_FILE", "COMPOSE_PROJECT_NAME", "COMPOSE_PROFILES", "COMPOSE_ENV_FILES")


def compose_command() -> list[str]:
    return shlex.split(os.environ.get("COMPOSE") or "docker compose")


def compose_works() -> bool:
    """An engine is there, or the caller promises so by naming the command."""
    if os.environ.get("COMPOSE") or os.environ.get("CI"):  # where it must work, a failure shows that it does not
        return True
    if not shutil.which("docker"):
        return False
    said = [subprocess.run(["docker", *words], capture_output=True) for words in (["info"], ["compose", "version"])]
    return all(process.returncode == 0 for process in said)


class Stack:
    """A project of its own on a free port, from a copy of the sources that has no .env."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in SHIPPED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(ROOT / name, folder / name)
        self.ports = {name: str(free_port()) for name in ("API_PORT", "PROMETHEUS_PORT")}
        self.url = f"http://127.0.0.1:{self.ports['API_PORT']}"
        # An operator writes COMPOSE_FILE into .env; podman-compose looks for it in the environment only.
        self.environment = {name: value for name, value in os.environ.items() if name not in COMPOSE_VARIABLES}
        self.environment |= {"COMPOSE_FILE": CPU_FILE, "COMPOSE_PROJECT_NAME": f"kinora-e2e-{uuid.uuid4().hex[:8]}"}
        self.environment |= self.ports
        reach_loopback_directly()
        self.http = httpx2.Client(base_url=self.url, timeout=30)

    def compose(self, *words: str, timeout: float = 300) -> str:
        """What the command prints. Raises where it fails."""
        return self._compose(*words, timeout=timeout).stdout

    def logs(self, service: str) -> str:
        """What it wrote to either stream: podman keeps them apart."""
        said = self._compose("logs", "--no-log-prefix", "--no-color", service)
        return said.stdout + said.stderr

    def _compose(self, *words: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*compose_command(), *words],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if done.returncode:
            raise AssertionError(
                f"compose {shlex.join(words)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
            )
        return done

    def inside(self, service: str, *command: str) -> str:
        """What `command` prints in the service's first container."""
        return self.compose("exec", "-T", service, *command)

    def up(self) -> None:
        # One after the other: podman builds the image of api and keeper twice when both are asked for at once.
        self.compose("build", "api", timeout=1200)
        self.compose("up", "-d", "--build", timeout=1200)
        self.wait_for_health()

    def require_no_crash(self) -> None:
        """Of the containers that are there: what went with `down` is in no log. Redis is killed and restarted here."""
        logs = {name: self.logs(name) for name in OURS}
        assert [name for name, log in logs.items() if not any(entries(log))] == [], "no line that could be read"
        found = [f"{name}: {crash}" for name, log in logs.items() for crash in crashes(log, REDIS_FAULTS)]
        assert not found, "\n".join(["a crash that nobody announced:", *found])

    def down(self) -> None:
        self.http.close()
        # Twice: podman-compose knows no second worker, and Redis stays for as long as that one leans on it.
        self.compose("--profile", "monitoring", "down", "--remove-orphans")
        self.compose("--profile", "monitoring", "down", "-v", "--rmi", "local")

    def services(self) -> dict[str, Any]:
        """The CPU file's services, each with what it takes over from docker-compose.yml."""
        both = {
            name: yaml.safe_load((self.folder / name).read_text())["services"]
            for name in ("docker-compose.yml", CPU_FILE)
        }
        return {
            name: both[service["extends"]["file"]][service["extends"]["service"]]
            for name, service in both[CPU_FILE].items()
        }

    # --- over HTTP ---

    def health(self) -> dict[str, Any]:
        return self.http.get("/health").json()

    def wait_for_health(self) -> None:
        wait_until(lambda: self._answers("/health"), timeout=90, what="/health")

    def _answers(self, path: str) -> bool:
        with contextlib.suppress(httpx2.TransportError):
            return self.http.get(path).status_code == 200
        return False

    def upload(self, picture: Path, **fields: Any) -> str:
        answer = self.http.post("/generate", files={"file": picture.read_bytes()}, data=fields)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["task_id"])

    def status(self, task_id: str) -> dict[str, Any]:
        return self.http.get(f"/status/{task_id}").raise_for_status().json()

    def wait_for(self, *task_ids: str, timeout: float = 120) -> None:
        """Until each is final. Fails unless all of them have finished, with a video."""
        wait_until(
            lambda: all(self.status(task_id)["status"] in FINAL for task_id in task_ids),
            timeout,
            "the end of the tasks",
        )
        for task_id in task_ids:
            assert self.status(task_id)["status"] == "finished", self.status(task_id)
            assert self.http.head(f"/results/{task_id}").status_code == 200


@contextlib.contextmanager
def running(folder: Path, failed: Callable[[], int]) -> Iterator[Stack]:
    """Yield the stack, then take it down. Prints its logs if `failed()`, a number of tests, has grown meanwhile. Raises
    AssertionError for a crash."""
    stack = Stack(folder)
    failed_before = failed()
    try:
        stack.up()
        yield stack
        if failed() > failed_before:
            print(stack.compose("logs"))  # pytest shows it beside the failure
        stack.require_no_crash()
    finally:
        stack.down()


def curl_lines(readme: str, url: str) -> str:
    """The shell lines under the README's heading on curl, for the service at `url`."""
    section = re.search(r"^## Use it with curl$(.*?)(?=^## |\Z)", readme, re.DOTALL | re.MULTILINE)
    assert section, "README.md has no heading '## Use it with curl'"
    lines = "\n".join(re.findall(r"^```sh\n(.*?)^```$", section[1], re.DOTALL | re.MULTILINE))
    assert README_ADDRESS in lines
    return lines.replace(README_ADDRESS, url)
