"""Somebody else's server, as a step of the lane `net` meets it: it takes jobs, works on them for a while, and may hang,
refuse, answer late or lose its answers."""

import json
import threading
import time
import uuid
from collections import Counter
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

PRICE = {"amount": 0.05, "currency": "USD"}


HANGS_SECONDS = 3600.0


class Heard(NamedTuple):
    """A submit that made a job, and is to be paid."""

    step_id: str
    attempt: int
    job: str


class Provider:
    def __init__(self) -> None:
        self.jobs: dict[str, float] = {}
        """When each was submitted."""
        self.submits: Counter[str] = Counter()
        """By the step that asked."""
        self.heard: list[Heard] = []
        self.asked_about: set[str] = set()
        """The jobs of which somebody held the handle."""
        self.work_seconds = 0.0
        """How long a job takes."""
        self.mode = "works"
        """Or `hangs`, `refuses`, `declines` (for good), `is away`, `loses answers` and `breaks` (of
        submits, which it has heard), `answers late`."""
        self.late_seconds = 0.0
        """By which it answers late, what it has heard at once."""
        self.met: Counter[str] = Counter()
        """How many requests met each mode."""
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def handle(self) -> None:
                with suppress(ConnectionError):  # who asked has died, or waits no longer
                    super().handle()

            def do_POST(self) -> None:
                self._answer(provider.submit)

            def do_GET(self) -> None:
                self._answer(provider.look)

            def _answer(self, what: Any) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                with provider:
                    status, said = what(self.path, body)
                if status == 0:  # the connection ends without a word
                    self.close_connection = True
                    return
                data = json.dumps(said).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self) -> None:
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._at_once -= 1

    def submit(self, _path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        mode = self._meet()
        if mode == "refuses":
            return 503, {"error": "come back later"}
        if mode == "declines":
            return 400, {"error": "no such picture"}
        if mode == "is away":
            return 0, {}
        asked = json.loads(body)
        with self._lock:
            self.submits[asked["step_id"]] += 1
            job = uuid.uuid4().hex
            self.heard.append(Heard(asked["step_id"], asked["attempt"], job))
            self.jobs[job] = time.monotonic()
        if mode == "answers late":
            time.sleep(self.late_seconds)
        if mode == "breaks":
            return 500, {"error": "out of order"}
        return (0, {}) if mode == "loses answers" else (200, {"job": job})

    def look(self, path: str, _body: bytes) -> tuple[int, dict[str, Any]]:
        job, mode = path.rpartition("/")[2], self._meet()
        self.asked_about.add(job)
        if mode == "is away":
            return 0, {}
        if mode == "answers late":
            time.sleep(self.late_seconds)
        if job not in self.jobs:
            return 404, {"error": "no such job"}
        done = (time.monotonic() - self.jobs[job]) / self.work_seconds if self.work_seconds else 1.0
        return 200, {"done": min(1.0, done), "price": PRICE}

    def _meet(self) -> str:
        """Return what the request meets; none that hangs gets an answer."""
        mode = self.mode
        with self._lock:
            self.met[mode] += 1
        if mode == "hangs":
            time.sleep(HANGS_SECONDS)
        return mode

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
