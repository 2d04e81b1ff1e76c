"""How the engines of a worker share the memory of its GPU."""

from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from worker.engines.base import LoadedModel

log = structlog.get_logger(__name__)


class GpuMemory:
    """What this process may hold of its GPU's memory, and who holds it."""

    def __init__(self, on_leave: Callable[[str], None] = lambda name: None) -> None:
        """`on_leave` is told of each engine that was unloaded."""
        self.found_gpu = False
        """Whether the machine has a GPU, be it one that does not work."""
        self.total: int | None = None
        """Bytes that torch may hold in all; None until an engine has asked the GPU, and without one."""
        self.tenants: dict[str, LoadedModel] = {}
        """The engines that are loaded, by name, the least recently used first."""
        self._on_leave = on_leave
        self._ran_out: defaultdict[str, dict[str, int]] = defaultdict(dict)

    def enter(self, name: str, tenant: "LoadedModel") -> None:
        """Count `tenant` as the most recently used."""
        self.tenants.pop(name, None)
        self.tenants[name] = tenant

    def leave(self, name: str) -> None:
        """Unload the tenant of that name, if there is one."""
        tenant = self.tenants.pop(name, None)
        if tenant:
            tenant.unload()
            self._on_leave(name)
            log.info("engine_unloaded", engine=name)

    def room(self, name: str) -> int:
        """Return the bytes that `name` may use for its weights and its work, beside what the others hold."""
        return (self.total or 0) - sum(tenant.resident_bytes for tenant in self._others(name).values())

    def make_room(self, name: str, needed: int) -> None:
        """Unload others, the least recently used first, until `name` may use the `needed` bytes, or nobody is left."""
        for other in self._others(name):
            if self.room(name) >= needed:
                return
            self.leave(other)

    def make_all_room(self, name: str) -> bool:
        """Unload all others. Returns whether there were any."""
        others = self._others(name)
        for other in others:
            self.leave(other)
        return bool(others)

    def remember(self, name: str, phase: str, counted: int) -> None:
        """Note that memory ran out in a phase of `name` that was counted to need so many bytes: it holds for as long as
        this process lives, also if the engine is loaded anew."""
        before = self._ran_out[name].get(phase, counted)
        self._ran_out[name][phase] = min(before, counted)

    def forget(self, name: str) -> None:
        """Take back what was noted of `name`."""
        self._ran_out.pop(name, None)

    def ran_out(self, name: str) -> dict[str, int]:
        """Return the fewest bytes that were too many, by phase."""
        return self._ran_out[name]

    def _others(self, name: str) -> dict[str, "LoadedModel"]:
        return {
            other: tenant for other, tenant in self.tenants.copy().items() if other != name
        }  # another thread asks too
