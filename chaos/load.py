"""Callers of the service: uploads with all that a careful client does, graphs of many steps, and cancels."""

import contextlib
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random
from typing import Any

import httpx2

from chaos.service import Service
from core.callbacks.endpoints import FINAL_EVENTS, CallbackEvent
from core.config import Settings
from core.engines import known_engines
from core.errors import KinoraError
from core.ledger.moves import Ledger
from core.plan.clip import clip_graph, join_parts
from core.plan.graph import Graph, PlannedStep
from core.spec import Clip
from core.storage import Storage, input_key
from core.task import Callback, Input, NewTask, Status, new_id
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
CLIPS_IN_A_GRAPH = 14  # each smoothed, then two joins: 30 steps
GRAPH_SECONDS = 15.0
MOST_WAITING = 4  # uploads pause above it, so that a step that is woken again does not wait behind others


@dataclass
class Accepted:
    """What the service promised."""

    tasks: dict[str, str] = field(default_factory=dict)
    """The task's id → the Idempotency-Key that it was asked for with."""
    graphs: set[str] = field(default_factory=set)
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
        work += [self._keep_making_graphs, self._keep_registering]
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
                if len(self.open_tasks()) > MOST_WAITING:
                    self._ended.wait(0.1)
                    continue
                task_id = self.ask_until_accepted(client, random)
                if random.random() < 0.1:
                    self._ended.wait(random.uniform(0, 1.0))
                    self.cancel(client, task_id, times=random.choice([1, 2]))
                self._ended.wait(random.uniform(0, 0.3))

    def open_tasks(self) -> list[Any]:
        """Asked of the ledger, which answers while the service does not; nobody is asked while it is away."""
        try:
            return [
                task
                for status in (Status.QUEUED, Status.STARTED)
                for task in self.ledger.tasks(status=status, after=None, limit=2 * MOST_WAITING)
            ]
        except Exception:
            return [None] * (MOST_WAITING + 1)

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

    def _keep_making_graphs(self) -> None:
        """No route makes tasks that fan out, so that these go straight into the ledger; the first at once."""
        while not self._ended.is_set():
            if len(self.open_tasks()) > MOST_WAITING:
                self._ended.wait(0.1)
                continue
            task_id = new_id()
            try:
                self.storage.put(input_key(task_id), PICTURE)
                self.ledger.create(graph(task_id, self.receiver.url))
            except KinoraError:  # nobody was promised anything
                pass
            else:
                self.accepted.tasks[task_id] = ""
                self.accepted.graphs.add(task_id)
            self._ended.wait(GRAPH_SECONDS)


def graph(task_id: str, callback_url: str) -> NewTask:
    """Fan-out, fan-in and a chain, each step as its kind understands it: clips that the service would make and smooth
    like this, all joined by the 29th step, and a last one. Parts of a long clip are not among them: the preview engine
    makes its frames as the encoder has them, which no seam can blend."""
    settings = Settings(_env_file=None)
    engine = known_engines(settings)["preview"]
    fields = {"engine": "preview", "width": 64, "height": 64, "num_frames": 2, "smooth_fps": 14, "seed": 1}
    clip = Clip.model_validate(engine.defaults | fields)
    steps: list[PlannedStep] = []
    for number in range(CLIPS_IN_A_GRAPH):
        for step in clip_graph(clip, engine, "cpu", settings).steps:
            needs = tuple(f"{number} {name}" for name in step.needs)
            steps.append(replace(step, name=f"{number} {step.name}", needs=needs))
    whole = clip.model_copy(update={"smooth_fps": None})
    smoothed = tuple(step.name for step in steps if step.params.kind == "smooth")
    steps.append(join_parts(whole, engine, smoothed))
    steps.append(replace(join_parts(whole, engine, (steps[-1].name,)), name="last"))
    return NewTask(
        task_id=task_id,
        owner="",
        engine="preview",
        params=clip.model_dump(exclude_none=True),
        inputs=[Input("picture", input_key(task_id), "", "image/jpeg")],
        warnings=[],
        steps=Graph(tuple(steps), "last").new_steps(),
        callback=Callback(callback_url, list(FINAL_EVENTS)),
    )
