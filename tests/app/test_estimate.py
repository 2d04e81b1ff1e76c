"""How right the estimate is that a caller gets, on a clock that is played forward."""

import heapq
from collections.abc import Callable
from dataclasses import replace
from random import Random
from types import SimpleNamespace
from typing import Any, cast

import pytest

from app.estimate import QueueForecasts, estimate_task
from app.services import Services
from core.ledger.moves import Ledger
from core.ledger.workers import Worker
from core.plan.steps import kinds_beside
from core.task import Claim, NewStep, NewTask
from tests.app.conftest import worker_that_says
from tests.conftest import new_task

WORKERS = {"cpu-1": ("cpu", 2), "cpu-2": ("cpu", 1), "gpu-1": ("gpu", 1), "net-1": ("net", 100)}
"""Their queues, and how many steps each does at a time."""
SECONDS = {"clip": 20.0, "still": 6.0, "voice": 3.0, "hosted": 45.0, "fit": 4.0, "join": 8.0}
QUEUES = {"clip": "gpu", "still": "gpu", "hosted": "net"}
NOISE = 0.15
"""By how much of its usual time a step may take more or less."""


def step(name: str, *needs: str) -> NewStep:
    kind = name.partition("-")[0]
    queue = QUEUES.get(kind, "cpu")
    engine = "svd-xt" if queue == "gpu" else None
    return NewStep(kind, queue, needs=needs, name=name, size=kind, work=1.0, engine=engine)


def clip() -> list[NewStep]:
    return [step("clip"), step("fit", "clip")]


def film(shots: int) -> list[NewStep]:
    """Each shot has a still, a voice and, every other one, a clip of ours or of somebody else's server; all are fitted
    and joined."""
    steps: list[NewStep] = []
    for number in range(shots):
        steps += [step(f"still-{number}"), step(f"voice-{number}")]
        picture = f"still-{number}"
        if number % 2:
            picture = f"{'clip' if number % 4 == 1 else 'hosted'}-{number}"
            steps.append(step(picture, f"still-{number}"))
        steps.append(step(f"fit-{number}", picture, f"voice-{number}"))
    return [*steps, step("join", *(f"fit-{number}" for number in range(shots)))]


class World:
    """Workers that take what the ledger gives them, each step as long as its kind takes, more or less."""

    def __init__(self, ledger: Ledger, set_clock: Callable[[float], None], seed: int) -> None:
        self.ledger, self.set_clock, self.random = ledger, set_clock, Random(seed)
        self.services = cast(Services, SimpleNamespace(ledger=ledger, forecasts=QueueForecasts(ledger)))
        self.now, self.noise = 0.0, NOISE
        self.running: list[tuple[float, int, str, Claim]] = []
        self.number = 0
        self.ended: dict[str, float] = {}
        self.report()

    def report(self) -> None:
        """Each worker lives, as the database's clock has it."""
        for name, (queue, at_once) in WORKERS.items():
            seen = worker_that_says(queue, queue, "svd-xt", None)
            self.ledger.report_worker(replace(seen, worker_id=name, at_once=at_once))

    def create(self, steps: list[NewStep]) -> NewTask:
        task = new_task(steps=steps)
        self.ledger.create(task)
        self.serve()
        return task

    def serve(self) -> None:
        for worker in WORKERS:
            while claim := self.claim(worker):
                took = SECONDS[claim.step.kind] * self.random.uniform(1 - self.noise, 1 + self.noise)
                self.number += 1
                heapq.heappush(self.running, (self.now + took, self.number, worker, claim))

    def claim(self, worker: str) -> Claim | None:
        """Return what the worker begins now, as its lane has it."""
        queue, at_once = WORKERS[worker]
        its = [claim.step.kind for _, _, name, claim in self.running if name == worker]
        if len(its) >= at_once:
            return None
        kinds = kinds_beside(its if queue == "cpu" else [], frozenset(SECONDS))
        return self.ledger.claim_next(queue, worker, 9e9, kinds=kinds)

    def advance(self, seconds: float) -> None:
        until = self.now + seconds
        while self.running and self.running[0][0] <= until:
            self.at(self.running[0][0])
            _, _, _, claim = heapq.heappop(self.running)
            self.ledger.finish(claim, [], {}, {})
            if self.ledger.task(claim.task.task_id).status.is_final:
                self.ended[claim.task.task_id] = self.now
            self.serve()
        self.at(until)

    def at(self, now: float) -> None:
        self.now = now
        self.set_clock(now)

    def estimate(self, task: NewTask) -> float | None:
        return estimate_task(self.services, *self.ledger.task_with_steps(task.task_id)).eta_seconds

    def work_off(self) -> None:
        while self.running:
            self.advance(60.0)


@pytest.fixture
def world(set_clock: Callable[[float], None], empty_database_url: str) -> Any:
    ledger = Ledger(empty_database_url)
    ledger.migrate()
    set_clock(0.0)
    world = World(ledger, set_clock, seed=5)
    for steps in (film(4), clip(), film(3)):
        world.create(steps)
    world.work_off()
    yield world
    ledger.close()


def test_nine_of_ten_tasks_of_mixed_graphs_end_within_a_quarter_of_their_estimate(world: World) -> None:
    estimates: dict[str, tuple[float, float]] = {}
    for number in range(40):
        steps = film(world.random.randint(2, 12)) if number % 3 == 0 else clip()
        world.report()
        task = world.create(steps)
        eta = world.estimate(task)
        assert eta is not None
        estimates[task.task_id] = (world.now, eta)
        world.advance(world.random.choice([20.0, 60.0, 240.0]))
    world.work_off()
    off = [abs(eta / (world.ended[task_id] - asked) - 1) for task_id, (asked, eta) in estimates.items()]
    assert sum(error <= 0.25 for error in off) >= 0.9 * len(off), sorted(off)
    assert len(off) == 40


def test_where_nothing_else_comes_and_steps_take_as_long_as_before_an_estimate_is_right(world: World) -> None:
    world.noise = 0.0
    world.create(film(12))  # by which what was measured comes near to what each step takes
    world.work_off()
    world.report()
    estimates: dict[str, tuple[float, float]] = {}
    tasks = [world.create(film(number) if number % 3 == 0 else clip()) for number in range(2, 12)]
    for task in tasks:
        eta = world.estimate(task)
        assert eta is not None
        estimates[task.task_id] = (world.now, eta)
    world.work_off()
    off = [abs(eta / (world.ended[task_id] - asked) - 1) for task_id, (asked, eta) in estimates.items()]
    assert max(off) <= 0.1, sorted(off)


def test_nobody_knows_when_a_task_ends_whose_steps_are_yet_to_be_planned(world: World) -> None:
    planning = [replace(step("voice"), reserved_weight=9.0), step("clip", "voice")]
    world.report()
    assert world.estimate(world.create(planning)) is None
    assert world.estimate(world.create([step("voice"), step("clip", "voice")])) is not None


def test_a_worker_of_the_lane_net_does_a_hundred_steps_side_by_side(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = cast(Services, SimpleNamespace(ledger=ledger, forecasts=QueueForecasts(ledger)))
    ledger.report_worker(Worker("w", "net", "h", "m", 1, "none", {}, None, None, 0.0, 0.0, alive=True, at_once=100))
    for took in (1000, 1000):  # so long that how slow this machine is says nothing
        ledger.create(new_task(steps=[NewStep("hosted", "net")]))
        claim = ledger.claim_next("net", "w", 60)
        assert claim is not None
        ledger.finish(replace(claim, started_at=claim.started_at - took), [], {}, {})
    tasks = [new_task(steps=[NewStep("hosted", "net")]) for _ in range(101)]
    for task in tasks:
        ledger.create(task)
    monkeypatch.setattr("app.estimate.MANY", 10**6)  # each time anew
    etas = [estimate_task(services, *ledger.task_with_steps(task.task_id)).eta_seconds for task in tasks]
    assert etas[:100] == [pytest.approx(1000, rel=0.02)] * 100
    assert etas[100] == pytest.approx(2000, rel=0.02)


def test_with_many_steps_one_forecast_serves_whoever_asks_for_a_while(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.estimate.MANY", 3)
    monkeypatch.setattr("app.estimate.KEPT_SECONDS", 60.0)
    services = cast(Services, SimpleNamespace(ledger=ledger, forecasts=QueueForecasts(ledger)))
    looks: list[None] = []
    open_steps = ledger.open_steps
    monkeypatch.setattr(ledger, "open_steps", lambda: (looks.append(None), open_steps())[1])
    tasks = [new_task() for _ in range(4)]
    for number, task in enumerate(tasks):
        ledger.create(task)
        for _ in range(3):
            place = estimate_task(services, *ledger.task_with_steps(task.task_id)).queue_position
            assert place == number + 1
    assert len(looks) == 3 + 3 + 1 + 1, "each time while there are few, then once for each that is new"
    monkeypatch.setattr("app.estimate.KEPT_SECONDS", 0.0)
    estimate_task(services, *ledger.task_with_steps(tasks[0].task_id))
    assert len(looks) == 9
