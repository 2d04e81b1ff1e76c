"""A task as a graph of steps, before any of it is recorded."""

from dataclasses import dataclass

from core.plan.steps import Params
from core.task import NewStep


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
    """What the time of steps of different sizes compares by; also its weight in the task's progress."""


@dataclass(frozen=True)
class Graph:
    steps: tuple[PlannedStep, ...]
    result_step: str
    """The name of the step whose artifacts and receipt are the task's."""

    def new_steps(self) -> list[NewStep]:
        """Return the steps as the ledger records them."""
        positions = {step.name: position for position, step in enumerate(self.steps)}
        return [
            NewStep(
                step.params.kind,
                step.queue,
                step.params.model_dump(exclude_none=True),
                tuple(positions[name] for name in step.needs),
                step.size,
                step.work,
            )
            for step in self.steps
        ]
