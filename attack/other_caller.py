"""The other caller: a key that does what it may, steadily, and notes how it is answered."""

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from typing import NamedTuple

import httpx2

from attack.target import LOOPBACK
from harness.pictures import CAT

# Ten ask for a status, each twice a second, so that no call waits for the answer to the one before.
STATUS_CLIENTS, STATUS_SECONDS, UPLOAD_SECONDS = 10, 0.5, 1.0
PATIENCE_SECONDS = 30.0
SMALL = {"engine": "preview", "width": "64", "height": "64", "num_frames": "2"}
STATUS, UPLOAD = "status", "upload"
GOOD = {STATUS: 200, UPLOAD: 202}


class Call(NamedTuple):
    what: str
    due: float
    """When it was its turn, by time.monotonic(): what comes late because the one before did is late too."""
    seconds: float
    """From then until all of the answer was there."""
    status: int
    """0: the connection ended without an answer."""


class OtherCaller:
    def __init__(self, port: int, key: str) -> None:
        self.port, self.headers = port, {"Authorization": f"Bearer {key}", "Connection": "close"}
        self.calls: list[Call] = []
        made = httpx2.Request("POST", "http://kinora/generate", files={"file": CAT}, data=SMALL)
        self._form, self._type = made.read(), {"Content-Type": made.headers["Content-Type"]}
        self._task_id = ""
        self._ended = threading.Event()

    @contextmanager
    def running(self) -> Iterator["OtherCaller"]:
        """Make a task, and then go on until the end of the block."""
        self._upload()
        begun, apart = time.monotonic(), STATUS_SECONDS / STATUS_CLIENTS
        turns = [(STATUS, begun + number * apart, STATUS_SECONDS, self._ask_status) for number in range(STATUS_CLIENTS)]
        turns.append((UPLOAD, begun, UPLOAD_SECONDS, self._upload))
        threads = [threading.Thread(target=self._repeat, args=each) for each in turns]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._ended.set()
            for thread in threads:
                thread.join()

    def between(self, begin: float, end: float) -> list[Call]:
        return [call for call in self.calls if begin <= call.due < end]

    def _repeat(self, what: str, due: float, period: float, call: Callable[[], int]) -> None:
        while not self._ended.wait(max(0.0, due - time.monotonic())):
            status = call()
            self.calls.append(Call(what, due, time.monotonic() - due, status))
            due += period

    def _ask_status(self) -> int:
        return self._answer("GET", f"/status/{self._task_id}")[0]

    def _upload(self) -> int:
        status, body = self._answer("POST", "/generate", self._form, self._type)
        if status == GOOD[UPLOAD]:
            self._task_id = json.loads(body)["task_id"]
        return status

    def _answer(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        """On a connection of its own, as a new caller comes."""
        connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=PATIENCE_SECONDS)
        with closing(connection), suppress(OSError, http.client.HTTPException):
            connection.request(method, path, body, self.headers | (headers or {}))
            response = connection.getresponse()
            return response.status, response.read()
        return 0, b""


def refused(calls: Sequence[Call]) -> dict[str, int]:
    """Return how many calls had another answer than the one that they must have, by what it was."""
    wrong = [call for call in calls if call.status != GOOD[call.what]]
    return dict(Counter(f"{call.what} {call.status}" for call in wrong))
