"""A task as a graph of steps, before any of it is recorded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.plan.steps import PARAMS, Params
from core.task import FinishedStep, NewStep, Step


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
    weight: float | None = None
    """As in NewStep, like those below."""
    reserved_weight: float = 0.0
    essential: bool = True
    max_attempts: int | None = None


@dataclass(frozen=True)
class Graph:
    steps: tuple[PlannedStep, ...]
    result_step: str
    """The name of the step whose artifacts and receipt are the task's."""

    @classmethod
    def of_recorded(cls, steps: Sequence[Step], needs: Mapping[str, Sequence[str]], result_step: str) -> "Graph":
        """Return the graph of a task's `steps`, in order. `needs` are the ids of what each needs, by its own id, and
        `result_step` is an id. Raises pydantic's ValidationError for parameters that this version cannot read."""
        names = {step.step_id: step.name for step in steps}
        planned = [
            PlannedStep(
                params=PARAMS.validate_python(step.params),
                needs=tuple(names[needed] for needed in needs.get(step.step_id, ())),
                **same_in_both(step),
            )
            for step in steps
        ]
        return cls(tuple(planned), names[result_step])

    def new_steps(
        self, keys: Mapping[str, str] | None = None, finished: Mapping[str, FinishedStep] | None = None
    ) -> list[NewStep]:
        """Return the steps as the ledger records them, with their content keys, and with what of them is `finished`,
        both by name."""
        return [
            NewStep(
                kind=step.params.kind,
                params=step.params.model_dump(exclude_none=True),
                needs=step.needs,
                content_key=(keys or {}).get(step.name),
                finished=(finished or {}).get(step.name),
                **same_in_both(step),
            )
            for step in self.steps
        ]


SAME_IN_BOTH = (
    *("name", "queue", "size", "work", "engine"),
    *("weight", "reserved_weight", "essential", "max_attempts"),
)


def same_in_both(step: PlannedStep | Step) -> dict[str, Any]:
    """Return what of a step is the same before and after it is recorded."""
    return {name: getattr(step, name) for name in SAME_IN_BOTH}
