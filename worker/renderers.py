"""What this worker can render with: which engine is loaded, and why another one cannot be."""

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import structlog

from core.config import Settings
from core.engines import Engine, find_engine, known_engines
from core.errors import EngineUnavailable, GpuLost
from worker.engines.base import Renderer, create_renderer
from worker.gpu import Gpu

if TYPE_CHECKING:
    from worker.rife.rife import Rife

log = structlog.get_logger(__name__)


class Renderers:
    """The engines of one queue. At most one is loaded at a time: a model fills a GPU."""

    def __init__(self, settings: Settings, queue: str) -> None:
        self.settings = settings
        self.engines = {name: engine for name, engine in known_engines(settings).items() if engine.queue == queue}
        self.loaded: Renderer | None = None
        self.load_seconds = 0.0
        self.rife: Rife | None = None
        """What smooths motion here, beside whichever engine is loaded; None: optical flow does."""
        self._newest: Renderer | None = None
        self._gpu: Gpu | None = None
        if any(engine.needs_cuda for engine in self.engines.values()):
            self._gpu = Gpu(settings.data_dir / "gpus")
            with suppress(EngineUnavailable):  # said when it comes to loading
                self._gpu.hold()
        self._loading = True
        self._reasons: dict[str, str] = {}

    @property
    def preferred(self) -> Engine:
        """The engine to hold from the start: the operator's, else the queue's first."""
        return self.engines.get(self.settings.engine) or next(iter(self.engines.values()))

    @property
    def device(self) -> str:
        """Known from the start: what `ENGINE=auto` means must not wait until a model is loaded."""
        found = self._newest.device if self._newest else "none"
        return "cuda" if found == "none" and self._gpu and self._gpu.found else found

    @property
    def gpu(self) -> str | None:
        """The UUID of the GPU that this worker holds."""
        return self._gpu.uuid if self._gpu else None

    def preload(self) -> None:
        """Load the preferred engine, where there are GPUs on one of its own, and RIFE where its weights are configured.
        Raises EngineUnavailable, GpuLost."""
        try:
            if self._gpu:
                self._gpu.hold()
            self.get(self.preferred.name)
            self._load_rife()
        except (EngineUnavailable, GpuLost) as error:
            self._reasons = dict.fromkeys(self.engines, error.message)  # this worker takes no work at all
            raise
        finally:
            self._loading = False
        self._reasons.clear()

    def _load_rife(self) -> None:
        """Where an engine's clips can be smoothed: those have torch, which the others need not."""
        weights = self.settings.rife_weights
        if weights and any("smooth_fps" in engine.limits for engine in self.engines.values()):
            from worker.rife.rife import Rife

            self.rife = Rife(weights, self.device)

    def get(self, name: str) -> Renderer:
        """The renderer, loaded, in place of the one loaded before. Raises EngineUnavailable."""
        if self.loaded and self.loaded.engine.name == name:
            return self.loaded
        if self.loaded:
            self.loaded.unload()
            self.loaded = None
        renderer = self._newest = create_renderer(find_engine(name, self.settings), self.settings)
        begun = time.perf_counter()
        renderer.load()
        self.load_seconds = time.perf_counter() - begun
        self.loaded = renderer
        log.info("engine_loaded", engine=name, device=renderer.device, seconds=round(self.load_seconds, 2))
        return renderer

    def report(self) -> dict[str, dict[str, Any]]:
        """For each engine whether it can run here, or why not; whether it is loaded, and how that fits the GPU."""
        held = self.loaded
        return {
            name: {
                "ready": not self._loading and name not in self._reasons,
                "loading": self._loading,
                "loaded": held is not None and name == held.engine.name,
                "reason": self._reasons.get(name),
                **(held.memory() if held and name == held.engine.name else {}),
            }
            for name in self.engines
        }
