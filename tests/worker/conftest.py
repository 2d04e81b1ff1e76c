from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from core.config.settings import Settings
from core.ids import new_id
from core.ledger.moves import Ledger
from core.plan.clip import clip_graph
from core.queue import StepQueue
from core.requests.clip import Clip
from core.storage import Storage
from core.task import NewTask
from harness.pictures import SAMPLES
from tests.conftest import input_for
from worker.engines.base import Engine
from worker.engines.host import EngineHost
from worker.metrics import WorkerMetrics
from worker.run.presence import Presence
from worker.run.runner import WorkerContext

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
def scratch(tmp_path: Path) -> Path:
    """The worker's own folder."""
    (folder := tmp_path / "scratch").mkdir()
    return folder


@pytest.fixture
def context(settings: Settings, scratch: Path) -> Iterator[WorkerContext]:
    ledger = Ledger(settings.resolved_database_url)
    ledger.migrate()
    engine_host = EngineHost(settings, "cpu")
    engine_host.preload()
    presence = Presence(ledger, "cpu", engine_host, None)
    queue = StepQueue(settings)
    storage = Storage(settings.resolved_storage_url)
    yield WorkerContext(settings, ledger, storage, queue, engine_host, presence, WorkerMetrics(), scratch)
    queue.close()
    ledger.close()


def clip_task(context: WorkerContext, clip: Clip, engine: Engine | None = None) -> NewTask:
    """A new task that makes `clip` of one picture, or of the video that it continues; in no ledger yet."""
    task_id = new_id()
    steps = clip_graph(clip, engine or context.engine_host.default_engine, "cpu", context.settings).new_steps()
    given = input_for(task_id, "picture" if clip.continues is None else "video")
    return NewTask(task_id, "", clip.engine, clip.model_dump(), [given], [], steps)


def stored(context: WorkerContext, task_id: str, name: str) -> bytes:
    """What the task made by that name."""
    return context.storage.read(context.ledger.artifacts(task_id)[name].key)
