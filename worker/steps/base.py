"""What every kind of step is: three methods, which the runner calls one after the other."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from core.plan.graph import Graph
from core.storage import Storage
from core.task import Artifact, Claim
from worker.attempt import Attempt
from worker.engines.host import EngineHost
from worker.steps.pictures import Pictures


class Made(NamedTuple):
    """What a step made, and the steps that turned out to be needed behind it."""

    artifacts: list[Artifact]
    receipt: dict[str, Any]
    plan: Graph | None = None
    """The step must have reserved weight for them; one of them makes the task's result."""


@dataclass(frozen=True)
class StepContext:
    """What an attempt at a step has at hand."""

    claim: Claim
    attempt: Attempt
    storage: Storage
    engine_host: EngineHost
    pictures: Pictures
    folder: Path
    """Empty at first, for what is in the making; gone when the attempt ends."""


class StepHandler:
    """Does one step, once. Each method raises Stopped and whatever ends the attempt.

    `prepare` and `render` have the worker's engine to themselves, on a GPU in the worker's main thread. `finish` needs
    no engine: on a GPU it is called in another thread, while the next step renders.
    """

    def __init__(self, context: StepContext) -> None:
        self.context = context
        self.claim, self.attempt, self.storage = context.claim, context.attempt, context.storage

    def prepare(self) -> None:
        """Load the engine, and read what the step begins with."""

    def render(self) -> None:
        """Do all that needs the engine."""

    def finish(self) -> Made:
        """Do the rest, store it, and return what the step made."""
        raise NotImplementedError
