from collections.abc import Iterator

import pytest

from core.config import Settings
from core.ledger import Ledger
from core.queue import StepQueue
from core.storage import Storage
from worker.metrics import WorkerMetrics
from worker.presence import Presence
from worker.renderers import Renderers
from worker.runner import Kit


@pytest.fixture
def kit(settings: Settings) -> Iterator[Kit]:
    ledger = Ledger(settings.resolved_database_url)
    ledger.migrate()
    renderers = Renderers(settings, "cpu")
    renderers.preload()
    presence = Presence(ledger, "cpu", renderers, None)
    queue = StepQueue(settings)
    storage = Storage(settings.resolved_storage_url)
    yield Kit(settings, ledger, storage, queue, renderers, presence, WorkerMetrics())
    queue.close()
    ledger.close()
