"""What an engine's class must offer. One engine a file beside this one; the entries stand in core/engines/."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib import import_module
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from core.config.settings import Settings
from core.engines.base import Engine
from core.requests.clip import ClipSettings
from worker.attempt import Attempt
from worker.engines.gpu_memory import GpuMemory

Frames = NDArray[np.uint8]


class LoadedModel(ABC):
    """What a worker holds loaded: an engine, of any kind."""

    def __init__(self, engine: Engine, settings: Settings, gpu_memory: GpuMemory | None = None) -> None:
        self.engine = engine
        self.settings = settings
        self.gpu_memory = gpu_memory or GpuMemory()
        self.device = "none"
        self.threads: int | None = None
        """Of torch on the CPU: by their number the rounding differs a little."""
        self.kernels: dict[str, str] = {}
        """Which was chosen for what on this GPU: by them the rounding differs a little."""

    @abstractmethod
    def load(self) -> None:
        """Set `device` ("cpu", "cuda"), then get ready to work.

        Raises EngineUnavailable with one line that says what to do; GpuLost.
        """

    @property
    def resident_bytes(self) -> int:
        """Of the GPU's memory, held while it does nothing."""
        return 0

    def memory(self) -> dict[str, Any]:
        """Return how it fits the GPU, for /health: how much memory there is for it, and what it chose by that."""
        return {}

    def unload(self) -> None:  # noqa: B027 - an engine that holds nothing has nothing to give back
        """Give back what `load` took."""


class Renderer(LoadedModel):
    """Makes the frames of clips."""

    phases: ClassVar[Mapping[str, float]]
    """The phases that `render` goes through, each with its share of render's time (they add up to 1)."""
    share: ClassVar[float] = 0.9
    """Of the time of a whole clip, which `render` takes; nearly all of the rest goes into encoding."""

    def with_memory_plan(self, clip: ClipSettings) -> ClipSettings:
        """`clip` with what it leaves open as it will be rendered here. Raises OutOfMemory if it cannot be."""
        return clip

    def with_smaller_plan(self, clip: ClipSettings, settled: ClipSettings, phase: str | None) -> ClipSettings | None:
        """Return `clip` settled otherwise than as `settled`, for which memory ran out in `phase`, and remember that.
        None if there is no way that needs less."""
        return None

    @abstractmethod
    def render(self, picture: Image.Image, clip: ClipSettings, attempt: Attempt) -> Frames:
        """`picture` is RGB, upright, of any size. Returns (clip.num_frames, clip.height, clip.width, 3) in sRGB, or
        (clip.num_frames, clip.height * 3 / 2, clip.width) as worker/media/yuv.py has it.

        Work stands in `with attempt.phase(...)`, and `attempt.advance(done, total)` is called at each check
        point: it raises Stopped when the attempt was canceled or taken over.
        """

    @abstractmethod
    def versions(self) -> dict[str, str]:
        """Name and version of each library that decides what the frames look like."""


def create_engine(engine: Engine, settings: Settings, gpu_memory: GpuMemory | None = None) -> LoadedModel:
    """Return an instance of the class that the entry `engine` names, not loaded."""
    module, name = engine.class_path.split(":")
    created: LoadedModel = getattr(import_module(module), name)(engine, settings, gpu_memory)
    return created
