"""What an engine's class must offer. One engine a file beside this one; the entries stand in core/engines.py."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib import import_module
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from core.config import Settings
from core.engines import Engine
from core.spec import Clip
from worker.attempt import Attempt

Frames = NDArray[np.uint8]


class Renderer(ABC):
    """Holds what one engine needs loaded, and makes frames with it."""

    phases: ClassVar[Mapping[str, float]]
    """The phases that `render` goes through, each with its share of render's time (they add up to 1)."""
    share: ClassVar[float] = 0.9
    """Of the time of a whole clip, which `render` takes; nearly all of the rest goes into encoding."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self.engine = engine
        self.settings = settings
        self.device = "none"
        self.threads: int | None = None
        """Of torch on the CPU: by their number the rounding differs a little."""

    @abstractmethod
    def load(self) -> None:
        """Set `device` ("cpu", "cuda"), then get ready to render.

        Raises EngineUnavailable with one line that says what to do.
        """

    def memory(self) -> dict[str, Any]:
        """Where it needs a GPU's memory, how much was free for it, and by which plan its default clip is made in it."""
        return {}

    def settle(self, clip: Clip) -> Clip:
        """`clip` with what it leaves open as it will be rendered here. Raises OutOfMemory where it cannot be."""
        return clip

    @abstractmethod
    def render(self, picture: Image.Image, clip: Clip, attempt: Attempt) -> Frames:
        """`picture` is RGB, upright, of any size. Returns (clip.num_frames, clip.height, clip.width, 3) in sRGB, or
        (clip.num_frames, clip.height * 3 / 2, clip.width) as worker/media/yuv.py has it.

        Work stands in `with attempt.phase(...)`, and `attempt.advance(done, total)` is called at each check
        point: it raises Stopped when the attempt was canceled or taken over.
        """

    @abstractmethod
    def versions(self) -> dict[str, str]:
        """Name and version of each library that decides what the frames look like."""

    def unload(self) -> None:  # noqa: B027 - an engine that holds nothing has nothing to give back
        """Give back what `load` took."""


def create_renderer(engine: Engine, settings: Settings) -> Renderer:
    module, name = engine.class_path.split(":")
    renderer: Renderer = getattr(import_module(module), name)(engine, settings)
    return renderer
