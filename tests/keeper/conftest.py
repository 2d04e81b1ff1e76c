"""A keeper at a database whose clock can be set."""

from collections.abc import Callable, Iterator

import pytest

from core.config.settings import Settings
from core.ledger.moves import Ledger
from core.queue import StepQueue
from core.storage import Storage
from keeper.main import Keeper

LEASE = 1.5


@pytest.fixture
def keeper(set_clock: Callable[[float], None], settings: Settings, empty_database_url: str) -> Iterator[Keeper]:
    ledger, queue = Ledger(empty_database_url), StepQueue(settings)
    ledger.migrate()
    soon = settings.model_copy(update={"lease_seconds": LEASE})
    yield Keeper(soon, ledger, Storage(settings.resolved_storage_url), queue)
    queue.close()
    ledger.close()
