"""Tasks of many steps, which no route makes: they go straight into the ledger."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, cast

from core.callbacks.endpoints import FINAL_EVENTS
from core.config.settings import Settings
from core.engines.known import known_engines
from core.plan.clip import clip_graph, join_parts
from core.plan.graph import Graph, PlannedStep
from core.plan.steps import Params, StepParams
from core.requests.clip import Clip
from core.storage import input_key
from core.task import Callback, Input, NewStep, NewTask

CLIPS = 3
SMOOTHED_CLIPS = 14  # then two joins: 30 steps
# Of one attempt: short, so that what hangs ends within seconds, and longer than anything takes that does not.
HOSTED_SECONDS = 8.0

SETTINGS = Settings(_env_file=None)
ENGINE = known_engines(SETTINGS)["preview"]
CLIP = Clip.model_validate(
    ENGINE.defaults | {"engine": "preview", "width": 64, "height": 64, "num_frames": 2, "seed": 1}
)
SMOOTHED_CLIP = CLIP.model_copy(update={"smooth_fps": 14})


class HostedParams(StepParams):
    """Somebody else's server works on the clip that the step needs."""

    kind: Literal["hosted"] = "hosted"


def wide() -> Graph:
    """Fan-out, fan-in and a chain: clips that the service would make and smooth like this, all joined by the 29th step,
    and a last one. Parts of a long clip are not among them: the preview engine makes its frames as the encoder has
    them, which no seam can blend."""
    steps: list[PlannedStep] = []
    for number in range(SMOOTHED_CLIPS):
        for step in clip_graph(SMOOTHED_CLIP, ENGINE, "cpu", SETTINGS).steps:
            needs = tuple(f"{number} {name}" for name in step.needs)
            steps.append(replace(step, name=f"{number} {step.name}", needs=needs))
    smoothed = tuple(step.name for step in steps if step.params.kind == "smooth")
    steps.append(join_parts(CLIP, ENGINE, smoothed))
    steps.append(replace(join_parts(CLIP, ENGINE, (steps[-1].name,)), name="last"))
    return Graph(tuple(steps), "last")


def hosted(prefix: str = "") -> Graph:
    """Clips, each given to somebody else's server, and all joined. `prefix` is of every step's name."""
    steps: list[PlannedStep] = []
    (clip,) = clip_graph(CLIP, ENGINE, "cpu", SETTINGS).steps
    for number in range(CLIPS):
        steps.append(replace(clip, name=f"{prefix}{number} clip"))
        params = cast(Params, HostedParams())
        steps.append(PlannedStep(f"{prefix}{number} hosted", params, "net", (steps[-1].name,)))
    sent = tuple(step.name for step in steps if step.queue == "net")
    steps.append(replace(join_parts(CLIP, ENGINE, sent), name=f"{prefix}film"))
    return Graph(tuple(steps), steps[-1].name)


def _wide() -> list[NewStep]:
    return wide().new_steps()


def _planned() -> list[NewStep]:
    """One step, which adds the others as it ends (chaos/steps.py)."""
    return [NewStep("plans", "cpu", name="plan", weight=1.0, reserved_weight=9.0)]


def _hosted() -> list[NewStep]:
    return hosted().new_steps()


def _failing() -> list[NewStep]:
    """One step fails whenever it is tried, and is not essential: only what needs it is not done either."""
    fails = NewStep("fails", "cpu", name="fails", essential=False)
    after = replace(join_parts(CLIP, ENGINE, ("film", "fails")), name="after")
    return [*_hosted(), fails, *Graph((after,), "after").new_steps()]


SHAPES: dict[str, Callable[[], list[NewStep]]] = {
    "wide": _wide,
    "planned": _planned,
    "hosted": _hosted,
    "failing": _failing,
}
WITH_NET_STEPS = ("failing", "planned", "hosted")


def graph(task_id: str, callback_url: str, shape: str = "wide") -> NewTask:
    """Return a task of that shape; its picture is to be in the storage."""
    return NewTask(
        task_id=task_id,
        owner="",
        engine="preview",
        params=(SMOOTHED_CLIP if shape == "wide" else CLIP).model_dump(exclude_none=True),
        inputs=[Input("picture", input_key(task_id, "picture"), "", "image/jpeg")],
        warnings=[],
        steps=SHAPES[shape](),
        callback=Callback(callback_url, list(FINAL_EVENTS)),
    )


def frames_of(clip: Clip, shape: str | None) -> int:
    """Return how many the video of such a task has; None: it is a clip and no graph."""
    return clip.frames_in_all * {None: 1, "wide": SMOOTHED_CLIPS}.get(shape, CLIPS)
