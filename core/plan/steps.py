"""Typed steps: what a worker needs to know to do one. No step looks at another to guess what it is for."""

from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from core.requests.clip import ClipSettings


class StepParams(BaseModel):
    """The parameters of a step; `kind` says of which."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    def input_role(self) -> str | None:
        """The role of the task's input that the step reads; None: it reads none."""
        return None

    def with_prompt(self, prompt: str | None) -> Self:
        """Return them with the task's prompt wherever they hold it. In the ledger no step does: a clip may have
        dozens of steps, and its prompt stands once, at the task."""
        return self


class RenderClip(StepParams):
    """Makes a clip, or a part of one, with an engine."""

    kind: Literal["clip"] = "clip"
    engine: str
    settings: ClipSettings
    begins_with: Literal["picture", "last_frame", "part"] = "picture"
    """The task's picture; the last frame of the task's video; the end of the part that this step needs."""
    adds: int | None = None
    """Frames that a part adds to the clip; None: the step makes all of it."""
    continuity: bool = False
    """Keep what the next part goes on from."""
    drop_first: bool = False
    """The first frame is the last one of the video that goes on."""
    crf: int
    """x264's constant rate factor, 1 (best) to 51."""
    shows: bool = True
    """Make a thumbnail and a spritesheet: no later step makes them."""

    @property
    def input_role(self) -> str | None:
        return {"picture": "picture", "last_frame": "video", "part": None}[self.begins_with]

    def with_prompt(self, prompt: str | None) -> Self:
        return self.model_copy(update={"settings": self.settings.model_copy(update={"prompt": prompt})})


class SmoothClip(StepParams):
    """Makes the clip of the step that it needs again, with more frames a second."""

    kind: Literal["smooth"] = "smooth"
    width: int
    height: int
    fps: int
    """Of the clip that there is."""
    smooth_fps: int
    num_frames: int
    """That it makes."""
    drop_first: bool = False
    """As in RenderClip."""
    crf: int


class JoinClips(StepParams):
    """Joins the clips of the steps that it needs, in order."""

    kind: Literal["join"] = "join"
    after_input: bool = False
    """The task's video comes first."""
    crf: int
    """Of what must be encoded anew."""
    shows: bool = True
    """As in RenderClip."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """What the receipt says of the joined clip, beyond what it says of the first one."""

    @property
    def input_role(self) -> str | None:
        return "video" if self.after_input else None

    def with_prompt(self, prompt: str | None) -> Self:
        if "seed" not in self.parameters:  # they do not say all of a clip
            return self
        parameters = {name: said for name, said in self.parameters.items() if name != "prompt"}
        said = {} if prompt is None else {"prompt": prompt}
        return self.model_copy(update={"parameters": parameters | said})


Params = RenderClip | SmoothClip | JoinClips
ONE_CORE_KINDS = frozenset({"join"})
"""The kinds of step of which a worker does as many at a time as it has cores; each other kind uses all cores."""


def uses_all_cores(kind: str) -> bool:
    return kind not in ONE_CORE_KINDS


def kinds_beside(running: Iterable[str], kinds: frozenset[str]) -> frozenset[str]:
    """Return which of `kinds` a worker of the lane cpu may begin beside those that are `running`."""
    return kinds & ONE_CORE_KINDS if any(map(uses_all_cores, running)) else kinds


PARAMS: TypeAdapter[Params] = TypeAdapter(Annotated[Params, Field(discriminator="kind")])
"""Reads the parameters of a step of any kind."""
