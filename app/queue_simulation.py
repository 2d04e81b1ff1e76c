"""Plays forward what the workers will do: in the ledger's order, on as many workers as there are, steps side by side.

Pure: no I/O. Times are in seconds from now.
"""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from core.ledger.durations import StepDuration
from core.ledger.reads import OpenStep


class Schedule(NamedTuple):
    """When a worker can render another step, and when its last finalize stage is over."""

    free: float = 0.0
    finalized: float = float("-inf")

    def with_step(self, duration: StepDuration, at: float = 0.0, ran: float = 0.0) -> "Schedule":
        """Return the schedule with one more step, which has run for `ran` seconds already, or begins no sooner than
        `at`; it is finalized once the one before is."""
        rendered = max(max(self.free, at) + duration.render - ran, self.finalized)
        return Schedule(max(0.0, rendered), max(0.0, rendered + duration.finalize))


@dataclass(eq=False)
class SimulatedWorker:
    name: str
    free: int
    """How many steps more it can do now."""
    does_several: bool
    schedule: Schedule = field(default_factory=Schedule)
    """Of the steps that use all its cores, or its GPU."""
    is_rendering: bool = False
    """It does one of these."""

    def takes(self, uses_all_cores: bool) -> bool:
        return self.free > 0 and not (uses_all_cores and self.is_rendering)


@dataclass(order=True)
class Event:
    at: float
    number: int
    step: OpenStep | None = field(compare=False, default=None)
    """It is done, or if it waits its rest is over."""
    worker: SimulatedWorker | None = field(compare=False, default=None)
    """It can do one step more."""
    rendered: bool = field(compare=False, default=False)
    """What it did used all cores."""


@dataclass
class Forecast:
    ends: dict[str, float] = field(default_factory=dict)
    """When each step is done, by its id. Those that nobody will serve are not there."""
    served: dict[str, int] = field(default_factory=dict)
    """For each step that waits: how many of its queue are served before it, itself included."""


Turn = tuple[float, int]
"""When a step of the task was served last, and among all that were served then."""
Entry = tuple[Turn, str, int, str]
"""What decides which step is served first: its task's turn, the task, the position, and the step itself."""


class Simulation:
    def __init__(
        self,
        steps: Sequence[OpenStep],
        durations: Mapping[str, StepDuration],
        workers: Mapping[str, Mapping[str, int]],
    ) -> None:
        """`durations` is that of each step by its id, `workers` says for each queue how many steps each of its workers
        does at a time. Of the steps that run, the one that began first comes first."""
        self.steps = {step.step_id: step for step in steps}
        self.durations = durations
        self.workers = {
            queue: [SimulatedWorker(name, at_once, at_once > 1) for name, at_once in names.items()]
            for queue, names in workers.items()
        }
        self.turns: dict[str, Turn] = {step.task_id: (step.turn, 0) for step in steps}
        self.missing = {step.step_id: len(step.needs) for step in steps}
        self.needed_by: dict[str, list[OpenStep]] = {}
        for step in steps:
            for needed in step.needs:
                self.needed_by.setdefault(needed, []).append(step)
        self.ready: dict[tuple[str, bool], list[Entry]] = {}
        """By the queue, and whether they use all cores."""
        self.count: dict[str, int] = {}
        self.events: list[Event] = []
        self.number = 0
        """Of events: of those at one time the one that was made first comes first."""
        self.forecast = Forecast()

    def run(self) -> Forecast:
        """Return when each step is done, and how many are served before it."""
        for step in self.steps.values():
            if step.worker_id is not None:
                self._go_on(step, step.worker_id)
            elif not step.needs:
                self._at(step.rests, step=step)
        for worker in [worker for workers in self.workers.values() for worker in workers if worker.is_rendering]:
            self._at(worker.schedule.free, worker=worker, rendered=True)
        while self.events:
            now = self.events[0].at
            while self.events and self.events[0].at == now:  # all that happens at once is known before anyone chooses
                self._happen(heapq.heappop(self.events))
            for queue in self.workers:
                while self._serve(queue, now):
                    pass
        return self.forecast

    def _at(
        self, at: float, step: OpenStep | None = None, worker: SimulatedWorker | None = None, rendered: bool = False
    ) -> None:
        self.number += 1
        heapq.heappush(self.events, Event(at, self.number, step, worker, rendered))

    def _go_on(self, step: OpenStep, name: str) -> None:
        """A step that runs: a dead worker's is done by whichever of its queue is free first."""
        workers = self.workers.get(step.queue, [])
        by_schedule = sorted(workers, key=lambda each: (each.name != name, each.schedule))
        worker = by_schedule[0] if by_schedule else SimulatedWorker(name, 1, False)
        if not worker.is_rendering or is_beside(step, worker):
            worker.free -= 1
        self._begin(step, worker, ran=step.ran)

    def _begin(self, step: OpenStep, worker: SimulatedWorker, now: float = 0.0, ran: float = 0.0) -> None:
        """Record when it is done. One that is beside others has nothing to do with the worker's schedule."""
        duration = self.durations[step.step_id]
        if is_beside(step, worker):
            ends = max(now, now + duration.seconds - ran)
            self._at(ends, worker=worker)
        else:
            worker.is_rendering = True
            worker.schedule = worker.schedule.with_step(duration, at=now, ran=ran)
            ends = worker.schedule.finalized
        self.forecast.ends[step.step_id] = ends
        self._at(ends, step=step)

    def _happen(self, event: Event) -> None:
        if event.worker is not None:
            event.worker.free += 1
            event.worker.is_rendering = event.worker.is_rendering and not event.rendered
        elif event.step is not None and event.step.step_id in self.forecast.ends:
            for step in self.needed_by.get(event.step.step_id, ()):
                self.missing[step.step_id] -= 1
                if not self.missing[step.step_id]:
                    self._make_ready(step)
        elif event.step is not None:
            self._make_ready(event.step)

    def _make_ready(self, step: OpenStep) -> None:
        entry = (self.turns[step.task_id], step.task_id, step.position, step.step_id)
        heapq.heappush(self.ready.setdefault((step.queue, step.uses_all_cores), []), entry)

    def _serve(self, queue: str, now: float) -> bool:
        """Let a worker begin the step whose turn it is. Returns whether one waited, and a worker could."""
        found = [(self._first(queue, all_cores), self._taker(queue, all_cores)) for all_cores in (True, False)]
        can = [(entry, worker) for entry, worker in found if entry and worker]
        if not can:
            return False
        entry, worker = min(can, key=lambda pair: pair[0])
        step = self.steps[entry[-1]]
        heapq.heappop(self.ready[queue, step.uses_all_cores])
        self.turns[step.task_id] = now, len(self.forecast.served)
        self.count[queue] = self.forecast.served[step.step_id] = self.count.get(queue, 0) + 1
        worker.free -= 1
        self._begin(step, worker, now)
        if not is_beside(step, worker):
            self._at(worker.schedule.free, worker=worker, rendered=True)
        return True

    def _first(self, queue: str, all_cores: bool) -> Entry | None:
        """Return what stands first of those that wait."""
        waiting = self.ready.get((queue, all_cores), [])
        while waiting and waiting[0][0] != self.turns[waiting[0][1]]:
            # Another step of its task was served since: it is its turn later.
            self._make_ready(self.steps[heapq.heappop(waiting)[-1]])
        return waiting[0] if waiting else None

    def _taker(self, queue: str, all_cores: bool) -> SimulatedWorker | None:
        able = [worker for worker in self.workers[queue] if worker.takes(all_cores)]
        return min(able, key=lambda worker: worker.schedule, default=None)


def is_beside(step: OpenStep, worker: SimulatedWorker) -> bool:
    return worker.does_several and not step.uses_all_cores
