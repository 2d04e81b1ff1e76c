import threading
from pathlib import Path

import pytest

from core.errors import LedgerUnavailable
from core.ledger.moves import Ledger
from core.ledger.startup import wait_for_ledger


class Ended(threading.Event):
    """Set by nobody; what would wait for it goes on at once."""

    waited = 0

    def wait(self, timeout: float | None = None) -> bool:
        self.waited += 1
        return self.is_set()


def test_a_ledger_that_is_not_up_yet_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, ended = Ledger(f"sqlite:///{tmp_path}/kinora.db"), Ended()
    migrate = ledger.migrate

    def migrate_late() -> None:
        if ended.waited < 3:
            raise LedgerUnavailable("away")
        migrate()

    monkeypatch.setattr(ledger, "migrate", migrate_late)
    wait_for_ledger(ledger, ended)
    assert ended.waited >= 3
    ended.set()
    assert ledger.tasks(status=None, after=None, limit=1) == [], "its tables are there"
    ledger.close()
