"""How much may wait, and be used and stored, before a new task is refused: core/ledger/quotas.py judges by it."""

import math
import shutil

from app.services import Services
from core.config.settings import Settings
from core.errors import StorageFull
from core.ledger.durations import StepProfile
from core.ledger.workers import Worker
from core.requests.clip import Clip
from core.task import Bounds, Quota


def limits(settings: Settings) -> tuple[Bounds, Quota]:
    """Return how many steps may wait, and what one owner may use."""
    stored_bytes = settings.max_stored_mb_per_key * 1_000_000
    quota = Quota(settings.max_tasks_per_hour, settings.max_waiting_per_key, stored_bytes)
    return Bounds(settings.max_waiting, settings.max_waiting_per_queue), quota


def require_disk_space(settings: Settings) -> None:
    """Raises StorageFull. Only this machine's disk is looked at: an object store has none that could be asked. Without
    DATA_DIR nothing is kept here, neither the ledger nor the storage."""
    if not settings.data_dir.is_dir():
        return
    free = shutil.disk_usage(settings.data_dir).free / 1e6
    if free < settings.min_free_disk_mb:
        raise StorageFull(f"only {free:.0f} MB of disk space are free; {settings.min_free_disk_mb} MB must be left")


def seconds_to_a_free_place(services: Services, clip: Clip, queue: str, workers: list[Worker]) -> int:
    """Return how long one place in the queue takes to come free, as measured: a step's time shared by who works
    there."""
    duration = services.ledger.step_durations().of(StepProfile(clip.engine, "clip", clip.size, clip.work))
    seconds = max(duration.render, duration.finalize) if duration else 5.0
    at_work = sum(worker.serves(queue) for worker in workers)
    return max(1, min(60, math.ceil(seconds / max(1, at_work))))
