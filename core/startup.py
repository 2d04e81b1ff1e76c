"""What every process does first: wait for the ledger and bring its tables up to date."""

import threading

import structlog

from core.errors import LedgerUnavailable
from core.ledger import Ledger

log = structlog.get_logger(__name__)


def wait_for_ledger(ledger: Ledger, ended: threading.Event) -> None:
    """Containers start in any order: a database that is not up yet is worth waiting for, until `ended` is set."""
    while not ended.is_set():
        try:
            ledger.migrate()
        except LedgerUnavailable as error:
            log.warning("ledger_awaited", reason=error.message)
            ended.wait(1.0)
        else:
            return
