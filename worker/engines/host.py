"""What this worker has loaded, and why something cannot be loaded here."""

import time
from collections import Counter
from contextlib import suppress
from typing import Any

import structlog

from core.config.settings import Settings
from core.engines.base import Engine
from core.engines.known import find_engine, known_engines, motion_engine
from core.errors import EngineUnavailable, GpuLost
from worker.engines.base import LoadedModel, create_engine
from worker.engines.gpu import Gpu
from worker.engines.gpu_memory import GpuMemory
from worker.metrics import WorkerMetrics

log = structlog.get_logger(__name__)


class EngineHost:
    """The engines of one queue, of whatever kind. On a GPU as many stay loaded as its memory holds without slowing one
    down, and the least recently used leaves first; on the CPU one of each kind."""

    def __init__(self, settings: Settings, queue: str, metrics: WorkerMetrics | None = None) -> None:
        self.settings = settings
        self.metrics = metrics or WorkerMetrics()
        self.engines = {name: engine for name, engine in known_engines(settings).items() if engine.queue == queue}
        self.loads: Counter[str] = Counter()
        self.unloads: Counter[str] = Counter()
        self.gpu_memory = GpuMemory(self._count_unload)
        self._newest: LoadedModel | None = None
        self._gpu: Gpu | None = None
        if any(engine.needs_cuda for engine in self.engines.values()):
            self._gpu = Gpu(settings.data_dir / "gpus")
            with suppress(EngineUnavailable):  # said when it comes to loading
                self._hold_gpu()
        self._loading = True
        self._reasons: dict[str, str] = {}

    @property
    def default_engine(self) -> Engine | None:
        """The engine to hold from the start: the operator's, else the queue's first; None: the queue has none."""
        return self.engines.get(self.settings.engine) or next(iter(self.engines.values()), None)

    @property
    def device(self) -> str:
        """Known from the start: what `ENGINE=auto` means must not wait until a model is loaded."""
        found = self._newest.device if self._newest else "none"
        return "cuda" if found == "none" and self.gpu_memory.found_gpu else found

    @property
    def gpu(self) -> str | None:
        """The UUID of the GPU that this worker holds."""
        return self._gpu.uuid if self._gpu else None

    @property
    def loaded(self) -> dict[str, LoadedModel]:
        """What is loaded now, by name, the least recently used first."""
        return self.gpu_memory.tenants

    @property
    def motion(self) -> Engine | None:
        """What smooths motion here; None: optical flow does. Only beside engines whose clips can be smoothed: those
        have torch, which others need not."""
        smooths = any("smooth_fps" in engine.limits for engine in self.engines.values())
        return motion_engine(self.settings) if smooths else None

    def preload(self) -> None:
        """Load the default engine, on a GPU of its own if there are GPUs, and what smooths motion. Raises
        EngineUnavailable, GpuLost."""
        try:
            self._hold_gpu()
            if self.default_engine:
                self.get(self.default_engine)
            if self.motion:
                self.get(self.motion)
        except (EngineUnavailable, GpuLost) as error:
            self._reasons = dict.fromkeys(self.engines, error.message)  # this worker takes no work at all
            raise
        finally:
            self._loading = False
        self._reasons.clear()

    def _hold_gpu(self) -> None:
        if self._gpu:
            try:
                self._gpu.hold()
            finally:
                self.gpu_memory.found_gpu = self._gpu.found

    def find(self, name: str) -> Engine:
        """Return the entry of the engine that a request named. Raises InvalidParameter."""
        return find_engine(name, self.settings)

    def get(self, entry: Engine) -> LoadedModel:
        """Return the engine of `entry`, loaded: an instance of the class that it names, which is that of its kind.
        Raises EngineUnavailable, GpuLost."""
        engine = self.loaded.get(entry.name)
        if engine is None:
            engine = self._load(entry)
        self.gpu_memory.enter(entry.name, engine)
        return engine

    def _load(self, entry: Engine) -> LoadedModel:
        for name, other in list(self.loaded.items()):
            if other.device != "cuda" and other.engine.kind == entry.kind:  # nobody counts the machine's own memory
                self.gpu_memory.leave(name)
        engine = self._newest = create_engine(entry, self.settings, self.gpu_memory)
        begun = time.perf_counter()
        engine.load()
        seconds = time.perf_counter() - begun
        self.loads[entry.name] += 1
        self.metrics.count_load(entry.name, seconds)
        log.info("engine_loaded", engine=entry.name, device=engine.device, seconds=round(seconds, 2))
        return engine

    def _count_unload(self, name: str) -> None:
        self.unloads[name] += 1
        self.metrics.count_unload(name)

    def report(self) -> dict[str, dict[str, Any]]:
        """Return for each engine whether it can run here, or why not; whether it is loaded, and how that fits the GPU;
        how often it was loaded, and how often it left for another."""
        loaded = self.loaded.copy()  # another thread asks than the one that loads
        return {
            name: {
                "ready": not self._loading and name not in self._reasons,
                "loading": self._loading,
                "loaded": name in loaded,
                "reason": self._reasons.get(name),
                "loads": self.loads[name],
                "unloads": self.unloads[name],
                **(loaded[name].memory() if name in loaded else {}),
            }
            for name in self.engines
        }
