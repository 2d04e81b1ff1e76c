from collections.abc import Iterator

import pytest
from PIL import Image

from core.config import Settings
from core.ledger import Ledger
from core.queue import StepQueue
from core.storage import Storage
from harness.pictures import SAMPLES
from worker.engines.host import EngineHost
from worker.metrics import WorkerMetrics
from worker.presence import Presence
from worker.runner import WorkerContext

SVD_MARKS = [
    pytest.mark.usefixtures("one_thread"),
    # diffusers' Euler scheduler gives a tensor to np.array, and torch 2.13's __array__ has no `copy` yet.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
]
"""For tests that render with a tiny checkpoint."""


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """So small a model gains nothing from a second thread, and on a busy machine the two wait for each other."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def photo() -> Image.Image:
    return Image.open(SAMPLES / "cat.jpg").convert("RGB")


@pytest.fixture
def context(settings: Settings) -> Iterator[WorkerContext]:
    ledger = Ledger(settings.resolved_database_url)
    ledger.migrate()
    engine_host = EngineHost(settings, "cpu")
    engine_host.preload()
    presence = Presence(ledger, "cpu", engine_host, None)
    queue = StepQueue(settings)
    storage = Storage(settings.resolved_storage_url)
    yield WorkerContext(settings, ledger, storage, queue, engine_host, presence, WorkerMetrics())
    queue.close()
    ledger.close()


def stored(context: WorkerContext, task_id: str, name: str) -> bytes:
    """What the task made by that name."""
    return context.storage.read(context.ledger.artifacts(task_id)[name].key)
