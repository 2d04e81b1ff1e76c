"""Callers of the service: uploads with all that a careful client does, graphs of many steps, and cancels."""

import contextlib
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle
from random import Random

import httpx2

from chaos.graphs import WITH_NET_STEPS, graph
from chaos.service import Service
from core.callbacks.endpoints import CallbackEvent
from core.errors import KinoraError
from core.ids import new_id
from core.ledger.moves import Ledger
from core.status import Status
from core.storage import Storage, input_key
from core.task import Task
from harness.pictures import SAMPLES
from harness.receiver import Receiver

PICTURE = (SAMPLES / "cat.jpg").read_bytes()
# Mostly short clips, so that many meet each fault, and some that run for seconds.
CLIPS = [
    {"width": 64, "height": 64, "num_frames": 2},
    {"width": 256, "height": 144, "num_frames": 25},
    {"width": 512, "height": 288, "num_frames": 60},
    {"width": 640, "height": 360, "num_frames": 150},
]
WIDE_SECONDS, NET_SECONDS = 15.0, 1.5
MOST_WAITING = 4  # uploads pause above it, so that a step that is woken again does not wait behind others
OPEN = (Status.QUEUED, Status.STARTED)
MOST_SEEN = 20
MOST_WITH_NET_STEPS = 4  # these are besides, for they wait for the provider most of the time


@dataclass
class Accepted:
    """What the service promised."""

    tasks: dict[str, str] = field(default_factory=dict)
    """The task's id → the Idempotency-Key that it was asked for with."""
    graphs: dict[str, str] = field(default_factory=dict)
    """Of those that no route makes: the task's id → its shape (chaos/graphs.py)."""
    canceled: set[str] = field(default_factory=set)
    """Of which a caller was told so."""
    refused: int = 0
    """Answers such as 503, after which the caller asked again."""
    broken: int = 0
    """Connections that broke, likewise."""
    unexpected: list[str] = field(default_factory=list)
    """Answers that no fault excuses."""


class Load:
    def __init__(self, service: Service, ledger: Ledger, storage: Storage, receiver: Receiver, seed: int) -> None:
        self.service, self.ledger, self.storage, self.receiver = service, ledger, storage, receiver
        self.accepted = Accepted()
        self._ended = threading.Event()
        work = [partial(self._keep_asking, Random(seed + number)) for number in range(2)]
        work += [partial(self._keep_making, ["wide"], WIDE_SECONDS), self._keep_registering]
        work.append(partial(self._keep_making, [*WITH_NET_STEPS, "planned"], NET_SECONDS))
        self._threads = [threading.Thread(target=self._do, args=[each]) for each in work]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _do(self, work: Callable[[], None]) -> None:
        """A caller that breaks down asks no more, and the rest of the run would prove less than it says."""
        try:
            work()
        except Exception as error:
            self.accepted.unexpected.append(f"a caller broke down: {error!r}")

    def _keep_asking(self, random: Random) -> None:
        with httpx2.Client(base_url=self.service.url, timeout=10) as client:
            while not self._ended.is_set():
                if not self.has_room():
                    self._ended.wait(0.1)
                    continue
                task_id = self.ask_until_accepted(client, random)
                if random.random() < 0.1:
                    self._ended.wait(random.uniform(0, 1.0))
                    self.cancel(client, task_id, times=random.choice([1, 2]))
                self._ended.wait(random.uniform(0, 0.3))

    def has_room(self, with_net_steps: bool = False) -> bool:
        """Whether few tasks are open, of those with such steps or of all others. Asked of the ledger, which answers
        while the service does not; nobody is asked while it is away."""
        try:
            found = [task for status in OPEN for task in self.ledger.tasks(status=status, after=None, limit=MOST_SEEN)]
        except Exception:
            return False
        count = sum((self._shape(task) in WITH_NET_STEPS) == with_net_steps for task in found)
        return count < MOST_WITH_NET_STEPS if with_net_steps else count <= MOST_WAITING

    def _shape(self, task: Task) -> str | None:
        return self.accepted.graphs.get(task.task_id)

    def ask_until_accepted(self, client: httpx2.Client, random: Random) -> str:
        key, clip = uuid.UUID(int=random.getrandbits(128)).hex, random.choices(CLIPS, [4, 3, 3, 2])[0]
        fields = clip | {"callback_url": self.receiver.url, "seed": random.randrange(1000)}
        if random.random() < 0.3:
            fields["callback_events"] = list(CallbackEvent)
        while True:
            try:
                response = client.post(
                    "/generate", files={"file": PICTURE}, data=fields, headers={"Idempotency-Key": key}
                )
            except httpx2.TransportError:
                self.accepted.broken += 1
            else:
                if response.status_code == 202:
                    task_id = str(response.json()["task_id"])
                    self.accepted.tasks[task_id] = key
                    return task_id
                self.accepted.refused += 1
                self._note(response)
            time.sleep(0.2)

    def cancel(self, client: httpx2.Client, task_id: str, times: int) -> None:
        for _ in range(times):
            try:
                response = client.post(f"/cancel/{task_id}")
            except httpx2.TransportError:
                continue
            if response.status_code == 200 and response.json()["status"] == "canceled":
                self.accepted.canceled.add(task_id)
            elif response.status_code != 200:
                self._note(response)

    def _note(self, response: httpx2.Response) -> None:
        if response.status_code not in (429, 503, 507):
            self.accepted.unexpected.append(f"{response.request.url}: {response.status_code} {response.text}")

    def _keep_registering(self) -> None:
        """An endpoint that comes and goes, while tasks tell it that they begin."""
        with httpx2.Client(base_url=self.service.url, timeout=10) as client:
            while not self._ended.wait(0.5):
                with contextlib.suppress(httpx2.TransportError):
                    asked = {"url": f"{self.receiver.url}/endpoint", "events": [CallbackEvent.STARTED]}
                    made = client.post("/webhooks", json=asked)
                    self._ended.wait(0.5)
                    if made.status_code == 201:
                        removed = client.delete(f"/webhooks/{made.json()['endpoint_id']}")
                        if removed.status_code != 204:
                            self._note(removed)
                    else:
                        self._note(made)

    def _keep_making(self, shapes: Sequence[str], pause: float) -> None:
        """No route makes such tasks, so that they go straight into the ledger; the first at once."""
        to_come = cycle(shapes)
        while not self._ended.is_set():
            if self.has_room(with_net_steps=shapes[0] in WITH_NET_STEPS):
                self._make(next(to_come))
                self._ended.wait(pause)
            self._ended.wait(0.1)

    def _make(self, shape: str) -> None:
        task_id = new_id()
        try:
            self.storage.put(input_key(task_id, "picture"), PICTURE)
            self.ledger.create(graph(task_id, self.receiver.url, shape))
        except KinoraError:  # nobody was promised anything
            return
        self.accepted.tasks[task_id] = ""
        self.accepted.graphs[task_id] = shape
