"""A task as a graph of steps, before any of it is recorded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
    def of_recorded(
        cls, steps: Sequence[Step], needs: Mapping[str, Sequence[str]], result_step: str, prompt: str | None
    ) -> "Graph":
        """Return the graph of a task's `steps`, in order. `needs` are the ids of what each needs, by its own id,
        `result_step` is an id, and `prompt` the task's. Raises pydantic's ValidationError for parameters that this
        version cannot read."""
        names = {step.step_id: step.name for step in steps}
        planned = [
            PlannedStep(
                step.name,
                PARAMS.validate_python(step.params).with_prompt(prompt),
                step.queue,
                tuple(names[needed] for needed in needs.get(step.step_id, ())),
                step.size,
                step.work,
                engine=step.engine,
                weight=step.weight,
                reserved_weight=step.reserved_weight,
                essential=step.essential,
                max_attempts=step.max_attempts,
            )
            for step in steps
        ]
        return cls(tuple(planned), names[result_step])

    def new_steps(
        self, keys: Mapping[str, str] | None = None, finished: Mapping[str, FinishedStep] | None = None
    ) -> list[NewStep]:
        """Return the steps as the ledger records them, without the prompt, which stands at the task; with their
        content keys, and with what of them is `finished`, both by name."""
        return [
            NewStep(
                step.params.kind,
                step.queue,
                step.params.with_prompt(None).model_dump(exclude_none=True),
                step.needs,
                step.size,
                step.work,
                name=step.name,
                engine=step.engine,
                weight=step.weight,
                reserved_weight=step.reserved_weight,
                essential=step.essential,
                max_attempts=step.max_attempts,
                content_key=(keys or {}).get(step.name),
                finished=(finished or {}).get(step.name),
            )
            for step in self.steps
        ]
