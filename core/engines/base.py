"""What an engine's entry says: its limits, its defaults, and what it needs. docs/engines.md says how to add one."""

from dataclasses import dataclass
from typing import Any

from core.shown import shown


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included, in steps of `step` if it is given."""

    low: float
    high: float
    step: int | None = None

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high and (self.step is None or value % self.step == 0)

    def __str__(self) -> str:
        multiple = f", a multiple of {self.step}" if self.step else ""
        return f"from {shown(self.low)} to {shown(self.high)}{multiple}"


@dataclass(frozen=True)
class Choice:
    values: tuple[str, ...]

    def __contains__(self, value: str) -> bool:
        return value in self.values

    def __str__(self) -> str:
        return "one of " + ", ".join(self.values)


Limit = Range | Choice

SEED = Range(0, 2**32 - 1)
SMOOTH_FPS = Range(2, 30)
QUALITY = Range(1, 51)  # 0 would be lossless, which is not High profile and plays nowhere
FIT = Choice(("cover", "contain", "stretch"))


@dataclass(frozen=True)
class Approximation:
    """The work that `profile=fast` leaves out. docs/performance.md has what each costs in quality."""

    full_every: int
    """Steps from one full one to the next; between them only `fresh_layers` of the UNet are worked out anew."""
    fresh_layers: int
    """1 to 3, of the UNet's last ones."""
    guided_part: float
    """Of the steps, from the first on; in the others the last difference that guidance made is made again."""


@dataclass(frozen=True)
class UnetFile:
    """A UNet's weights as one file of safetensors, in a repository `model` of the hub."""

    model: str
    name: str
    revision: str


@dataclass(frozen=True)
class Engine:
    """One engine: `limits` names the parameters it uses and what each may be, `defaults` their values.

    `class_path` is "module:Class" of a `worker.engines.base.LoadedModel`, for the kind "clip" of a `Renderer`; only a
    worker imports it.
    """

    name: str
    summary: str
    class_path: str
    queue: str
    licence: str
    limits: dict[str, Limit]
    defaults: dict[str, Any]
    model: str | None = None
    revision: str | None = None
    unet: UnetFile | None = None
    """What stands in place of the model's own UNet."""
    kind: str = "clip"
    """What it makes: "clip" from a picture, "motion" (frames in between) of a clip."""
    gpu_memory_gb: float | None = None
    """Of the smallest card that it runs on."""
    needs_cuda: bool = False
    """Too slow to be chosen by `ENGINE=auto` without a GPU."""
    approximation: Approximation | None = None
    """What its profile `fast` is, if it has one."""
    frames_at_once: int | None = None
    """Where it can go on from its own last frames: how many it makes in one go. More are made in several."""
    fits_pictures: bool = False
    """Whether it begins with the picture at the clip's size, which then may be done before its turn."""
    max_decoded_pixels: int | None = None
    """The most pixels of the frames that are decoded at once."""
    max_video_pixels: int | None = None
    """The most pixels of all frames together, if frames are held in memory at 3 bytes each."""


COMMON_LIMITS: dict[str, Limit] = {"seed": SEED, "fit": FIT, "quality": QUALITY}
COMMON_DEFAULTS: dict[str, Any] = {"fit": "cover", "quality": 18}
