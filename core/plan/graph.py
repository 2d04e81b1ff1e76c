"""A task as a graph of steps, before any of it is recorded."""

from collections.abc import Mapping
from dataclasses import dataclass

from core.plan.steps import Params
from core.task import FinishedStep, NewStep


@dataclass(frozen=True)
class PlannedStep:
    name: str
    """Of its own in the graph."""
    params: Params
    queue: str
    needs: tuple[str, ...] = ()
    """The names of the steps whose artifacts it uses, in order; each stands before it in the graph."""
    size: str = ""
    """Steps of one kind and size take about as long."""
    work: float = 0.0
    """What the time of steps of different sizes compares by, and their weight in the task's progress."""
    engine: str | None = None
    """That it needs; None: it needs none."""


@dataclass(frozen=True)
class Graph:
    steps: tuple[PlannedStep, ...]
    result_step: str
    """The name of the step whose artifacts and receipt are the task's."""

    def new_steps(
        self, keys: Mapping[str, str] | None = None, finished: Mapping[str, FinishedStep] | None = None
    ) -> list[NewStep]:
        """Return the steps as the ledger records them, with their content keys, and with what of them is `finished`,
        both by name."""
        return [
            NewStep(
                step.params.kind,
                step.queue,
                step.params.model_dump(exclude_none=True),
                step.needs,
                step.size,
                step.work,
                name=step.name,
                engine=step.engine,
                content_key=(keys or {}).get(step.name),
                finished=(finished or {}).get(step.name),
            )
            for step in self.steps
        ]
