"""Somebody else's server, as a step of the lane `net` meets it: it takes jobs, works on them for a while, and may hang,
refuse, answer late or lose its answers."""

import json
import threading
import time
import uuid
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PRICE = {"amount": 0.05, "currency": "USD"}


class Provider:
    def __init__(self) -> None:
        self.jobs: dict[str, float] = {}
        """When each was submitted."""
        self.submits: Counter[str] = Counter()
        """By the step that asked."""
        self.work_seconds = 0.0
        """How long a job takes."""
        self.mode = "works"
        """Or `hangs`, `refuses`, `is away`, `loses answers` (of submits, which it has heard)."""
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        provider = self

        class Handler(BaseHTTPRequestHandler):
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
        if self.mode == "hangs":
            time.sleep(3600)
        if self.mode == "refuses":
            return 503, {"error": "come back later"}
        if self.mode == "is away":
            return 0, {}
        step_id = json.loads(body)["step_id"]
        with self._lock:
            self.submits[step_id] += 1
            job = uuid.uuid4().hex
            self.jobs[job] = time.monotonic()
        return (0, {}) if self.mode == "loses answers" else (200, {"job": job})

    def look(self, path: str, _body: bytes) -> tuple[int, dict[str, Any]]:
        if self.mode == "hangs":
            time.sleep(3600)
        if self.mode == "is away":
            return 0, {}
        job = path.rpartition("/")[2]
        if job not in self.jobs:
            return 404, {"error": "no such job"}
        done = (time.monotonic() - self.jobs[job]) / self.work_seconds if self.work_seconds else 1.0
        return 200, {"done": min(1.0, done), "price": PRICE}

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
