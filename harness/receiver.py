"""A real HTTP server that receives callbacks, and checks each with the library that its users would take."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks import Webhook, WebhookVerificationError


@dataclass
class Received:
    delivery_id: str
    timestamp: float
    body: dict[str, Any]
    text: bytes
    headers: dict[str, str]


class Receiver:
    """Answers each POST with `status`, those to paths that begin with `slow` after `delay` seconds. Without `port` it
    listens on any that is free."""

    def __init__(self, secret: str, status: int = 200, delay: float = 0.0, port: int = 0, slow: str = "") -> None:
        self.secret, self.status, self.delay = secret, status, delay
        self.received: list[Received] = []
        self.refused: list[str] = []
        """Why the library took a callback for another's."""
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["content-length"])
                text = self.rfile.read(length)
                if len(text) < length:  # who sent it died at it: nothing was told
                    self.close_connection = True
                    return
                try:
                    body = Webhook(receiver.secret).verify(text, dict(self.headers))
                except WebhookVerificationError as error:
                    receiver.refused.append(str(error))
                    raise
                stamp = float(self.headers["webhook-timestamp"])
                headers = dict(self.headers)
                receiver.received.append(Received(self.headers["webhook-id"], stamp, body, text, headers))
                if self.path.startswith(slow):
                    time.sleep(receiver.delay)
                self.send_response(receiver.status)
                self.send_header("content-length", "0")
                self.send_header("location", f"{receiver.url}/elsewhere")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def events(self) -> list[str]:
        return [received.body["type"] for received in self.received]


@contextmanager
def receiving(secret: str, **answers: Any) -> Iterator[Receiver]:
    receiver = Receiver(secret, **answers)
    thread = threading.Thread(target=receiver.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.server.shutdown()
        receiver.server.server_close()
