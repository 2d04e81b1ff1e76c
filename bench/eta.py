"""How right the ETA is: clips of several sizes, videos that go on, and films of several shots, in bursts, on one worker
and on two.

    python -m bench.eta

Some run first, so that there is something to go by. Then each ETA is compared with what came true by the ledger's
clock: the one that a caller gets with the 202, which cannot know what is asked for next and takes turns with it; and
the one of GET /status once the whole burst has been asked for. Two workers get a core each, as two GPUs would be; and
once they fight for all cores, where each step's time depends on whether the other works. The client and the service
run on the same cores. No route makes films yet: their graphs go straight into the ledger.
"""

import signal
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import psutil
import sqlalchemy as sa

from bench.service import PICTURE
from core.config.settings import Settings
from core.db.tables import tasks
from core.engines.known import find_engine
from core.ids import new_id
from core.ledger.moves import Ledger
from core.plan.clip import clip_graph, join_parts
from core.plan.graph import Graph, PlannedStep
from core.queue import StepQueue
from core.requests.clip import Clip
from core.storage import Storage, input_key
from core.task import Input, NewTask
from harness.report import machine, print_table, write
from harness.servers import wait_until
from harness.stack import Stack, running_stack

SIZES = [
    {"width": 512, "height": 288, "num_frames": 100},
    {"width": 1024, "height": 576, "num_frames": 50},
    {"width": 768, "height": 432, "num_frames": 100},
    {"width": 1024, "height": 576, "num_frames": 100},
]
"""Each takes long, beside what the client and the API server take of the same cores."""
FIRST, BURSTS, PER_BURST = 3, 12, 10
WITHIN = 0.25
LEFT_SECONDS = 0.5
"""Until its end: of a task that has less left when it is asked about, the ETA is no news."""
SHARES = (6, 2, 2)
"""Of clips, extensions and films."""

SETTINGS = Settings(_env_file=None)
ENGINE = find_engine("preview", SETTINGS)


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory(prefix="kinora-bench-") as folder, running_stack(Path(folder)) as stack:
        ledger = Ledger(f"sqlite:///{folder}/data/kinora.db")
        try:
            asking = Asking(stack, ledger, Random(1))
            asking.warm_up()
            rows.append({"workers": "1"} | figures(asking))
            start_workers(stack, [[0], [1]])
            asking.warm_up()
            rows.append({"workers": "2, a core each"} | figures(asking))
            start_workers(stack, [[0, 1], [0, 1]])
            asking.warm_up()
            rows.append({"workers": "2, both on both cores"} | figures(asking))
        finally:
            ledger.close()
    print_table(rows)
    print(f"\nwritten to {write('eta', {'machine': machine('fastapi', 'rq'), 'figures': rows})}")


def start_workers(stack: Stack, cores: list[list[int]]) -> None:
    """Start workers in the place of those that are there, each on these cores: how many steps one does at a time goes
    by the cores that it begins with."""
    for name in [name for name in stack.processes if name.startswith("worker")]:
        stack.kill(name, signal.SIGTERM)
    own = psutil.Process()
    before = own.cpu_affinity()
    for number, its in enumerate(cores):
        own.cpu_affinity(its)
        stack.start(f"worker-{number}", "worker", "--queue", "cpu")
    own.cpu_affinity(before)
    wait_until(lambda: len(stack.client.get("/health").json()["queues"]["cpu"]["workers"]) == len(cores), 30)


class Answer(NamedTuple):
    task_id: str
    at: float
    """In seconds since the epoch: ledger and client run on one machine."""
    eta: float | None
    """None: it had ended, or nothing says how long it will take."""


class Asking:
    """Asks for one thing and another, and keeps the ETA of each by its task."""

    def __init__(self, stack: Stack, ledger: Ledger, random: Random) -> None:
        self.stack, self.ledger, self.random = stack, ledger, random
        self.storage = Storage(f"file://{stack.folder}/data/storage")
        self.queue = StepQueue(Settings(_env_file=None, redis_port=stack.redis.port))
        self.asked: list[str] = []
        """Clips of this burst."""
        self.finished: list[str] = []
        """Those of earlier ones, which may go on."""

    def warm_up(self) -> None:
        """Let the ledger learn how long each size takes on these workers: the newest step moves a mean by a fifth."""
        for _ in range(FIRST):
            self.burst(PER_BURST)

    def burst(self, count: int) -> tuple[list[Answer], list[Answer]]:
        """Ask for so many within moments, and wait for all. Returns what was told of each at once, and once all had
        been asked for."""
        at_once = []
        for _ in range(count):
            at_once.append(self.ask(self.random.choices((self.clip, self.extension, self.film), SHARES)[0]()))
            time.sleep(self.random.uniform(0, 0.3))
        later = [self.ask(each.task_id) for each in at_once]
        while {"finished"} != (seen := {self.stack.status(each.task_id)["status"] for each in at_once}):
            assert "failed" not in seen
            time.sleep(0.5)  # seldom, for the client shares the cores
        self.finished += self.asked
        self.asked.clear()
        return at_once, later

    def ask(self, task_id: str) -> Answer:
        return Answer(task_id, time.time(), self.stack.status(task_id)["eta_seconds"])

    def clip(self) -> str:
        size = self.random.choice(SIZES)
        answer = self.stack.client.post("/generate", files={"file": PICTURE.read_bytes()}, data=size)
        self.asked.append(str(answer.json()["task_id"]))
        return self.asked[-1]

    def extension(self) -> str:
        """A clip and a join, after a video that is there."""
        if not self.finished:
            return self.clip()
        asked = {"video": {"id": self.random.choice(self.finished)}, "seconds": "4"}
        answer = self.stack.client.post("/v1/videos/extensions", json=asked)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    def film(self) -> str:
        """Shots side by side, each smoothed or not, and all joined."""
        task_id, size = new_id(), self.random.choice(SIZES[:2])
        clip = Clip.model_validate(ENGINE.defaults | size | {"engine": ENGINE.name, "seed": 1})
        graph = film_of(clip, self.random.randint(2, 5), self.random.choice((None, 14)))
        self.storage.put(input_key(task_id, "picture"), PICTURE.read_bytes())
        source = Input("picture", input_key(task_id, "picture"), "", "image/jpeg")
        params = clip.model_dump(exclude_none=True)
        steps = graph.new_steps()
        for step_id, queue in self.ledger.create(NewTask(task_id, "", ENGINE.name, params, [source], [], steps)):
            self.queue.wake(step_id, queue)
        return task_id


def film_of(clip: Clip, shots: int, smooth_fps: int | None) -> Graph:
    steps: list[PlannedStep] = []
    for number in range(shots):
        shot = clip_graph(clip.model_copy(update={"smooth_fps": smooth_fps}), ENGINE, "cpu", SETTINGS)
        steps += [
            replace(step, name=f"{number} {step.name}", needs=tuple(f"{number} {name}" for name in step.needs))
            for step in shot.steps
        ]
    ends = {step.name for step in steps} - {name for step in steps for name in step.needs}
    steps.append(join_parts(clip, ENGINE, tuple(step.name for step in steps if step.name in ends)))
    return Graph(tuple(steps), steps[-1].name)


def figures(asking: Asking) -> dict[str, Any]:
    bursts = [asking.burst(asking.random.randint(1, PER_BURST)) for _ in range(BURSTS)]
    at_once, later = ([answer for burst in bursts for answer in burst[which]] for which in (0, 1))
    query = sa.select(tasks.c.task_id, tasks.c.created_at, tasks.c.finished_at)
    with asking.ledger.database.connect() as connection:
        rows = {row.task_id: row for row in connection.execute(query)}
    true = {each.task_id: rows[each.task_id].finished_at - rows[each.task_id].created_at for each in at_once}
    off = sorted(error_of(each.eta, true[each.task_id]) for each in at_once)
    left = {each: rows[each.task_id].finished_at - each.at for each in later}
    off_later = sorted(error_of(each.eta, left[each]) for each in later if left[each] > LEFT_SECONDS)
    return {
        "tasks": len(off),
        "share within 25 %": within(off),
        "median error": off[len(off) // 2],
        "error of the 90th of 100": off[int(0.9 * len(off))],
        "longest wait, s": max(true.values()),
        "asked about again": len(off_later),
        "of these within 25 %": within(off_later),
    }


def error_of(eta: float | None, true: float) -> float:
    """Return by which part of what came true an ETA was off; one that was not told is off by all of it."""
    return 1.0 if eta is None else abs(eta / true - 1)


def within(off: list[float]) -> float:
    return sum(error <= WITHIN for error in off) / len(off)


if __name__ == "__main__":
    main()
