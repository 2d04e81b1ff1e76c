"""Plays forward what the workers will do: in the ledger's order, on as many workers as there are, steps side by side.

Pure: no I/O. Times are in seconds from now.
"""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from core.durations import StepDuration
from core.reader import OpenStep


class Schedule(NamedTuple):
    """When a worker can begin another step, and when its last finalize stage is over."""

    free: float = 0.0
    finalized: float = float("-inf")

    def with_step(self, duration: StepDuration, at: float = 0.0, ran: float = 0.0) -> "Schedule":
        """Return the schedule with one more step, which has run for `ran` seconds already, or begins no sooner than
        `at`; it is finalized once the one before is."""
        rendered = max(max(self.free, at) + duration.render - ran, self.finalized)
        return Schedule(max(0.0, rendered), max(0.0, rendered + duration.finalize))


@dataclass(order=True)
class Event:
    at: float
    number: int
    step: OpenStep | None = field(compare=False, default=None)
    """It is done, or if it waits its rest is over."""
    worker: str | None = field(compare=False, default=None)
    """It is free."""


@dataclass
class Forecast:
    ends: dict[str, float] = field(default_factory=dict)
    """When each step is done, by its id. Those that nobody will serve are not there."""
    served: dict[str, int] = field(default_factory=dict)
    """For each step that waits: how many of its queue are served before it, itself included."""


class Simulation:
    def __init__(
        self,
        steps: Sequence[OpenStep],
        durations: Mapping[str, StepDuration],
        workers: Mapping[str, Sequence[str]],
    ) -> None:
        """`durations` is that of each step by its id, `workers` those of each queue. Of the steps that run, the one
        that began first comes first."""
        self.steps = {step.step_id: step for step in steps}
        self.durations = durations
        self.queue_of = {worker: queue for queue, names in workers.items() for worker in names}
        self.schedules = dict.fromkeys(self.queue_of, Schedule())
        self.turns = {step.task_id: step.turn for step in steps}
        self.missing = {step.step_id: len(step.needs) for step in steps}
        self.names: dict[str, list[str]] = {queue: list(names) for queue, names in workers.items()}
        self.needed_by: dict[str, list[OpenStep]] = {}
        for step in steps:
            for needed in step.needs:
                self.needed_by.setdefault(needed, []).append(step)
        self.ready: dict[str, list[tuple[float, str, int, str]]] = {}
        self.idle: dict[str, list[str]] = {}
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
        for worker, schedule in self.schedules.items():
            self._at(schedule.free, worker=worker)
        while self.events:
            now = self.events[0].at
            while self.events and self.events[0].at == now:  # all that happens at once is known before anyone chooses
                self._happen(heapq.heappop(self.events))
            for queue in [queue for queue, waiting in self.ready.items() if waiting]:
                self._serve(queue, now)
        return self.forecast

    def _at(self, at: float, step: OpenStep | None = None, worker: str | None = None) -> None:
        self.number += 1
        heapq.heappush(self.events, Event(at, self.number, step, worker))

    def _go_on(self, step: OpenStep, worker: str) -> None:
        """A step that runs: a dead worker's is done by whichever of its queue is free first."""
        if worker not in self.schedules:
            worker = min(self.names.get(step.queue, []), key=lambda name: self.schedules[name], default=worker)
        schedule = self.schedules.get(worker, Schedule()).with_step(self.durations[step.step_id], ran=step.ran)
        if worker in self.schedules:
            self.schedules[worker] = schedule
        self._done_at(step, schedule.finalized)

    def _done_at(self, step: OpenStep, at: float) -> None:
        self.forecast.ends[step.step_id] = at
        self._at(at, step=step)

    def _happen(self, event: Event) -> None:
        if event.worker is not None:
            self.idle.setdefault(self.queue_of[event.worker], []).append(event.worker)
        elif event.step is not None and event.step.step_id in self.forecast.ends:
            for step in self.needed_by.get(event.step.step_id, ()):
                self.missing[step.step_id] -= 1
                if not self.missing[step.step_id]:
                    self._make_ready(step)
        elif event.step is not None:
            self._make_ready(event.step)

    def _make_ready(self, step: OpenStep) -> None:
        entry = (self.turns[step.task_id], step.task_id, step.position, step.step_id)
        heapq.heappush(self.ready.setdefault(step.queue, []), entry)

    def _serve(self, queue: str, now: float) -> None:
        waiting, idle = self.ready[queue], self.idle.get(queue, [])
        while waiting and idle:
            turn, _, _, step_id = heapq.heappop(waiting)
            step = self.steps[step_id]
            if turn != self.turns[step.task_id]:  # another step of its task was served since: it is its turn later
                self._make_ready(step)
                continue
            worker = idle.pop(0)
            self.turns[step.task_id] = now
            self.count[queue] = self.forecast.served[step_id] = self.count.get(queue, 0) + 1
            schedule = self.schedules[worker] = self.schedules[worker].with_step(self.durations[step_id], at=now)
            self._done_at(step, schedule.finalized)
            self._at(schedule.free, worker=worker)
