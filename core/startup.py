"""What every process does first: wait for the ledger and bring its tables up to date."""

import time

import structlog

from core.errors import LedgerUnavailable
from core.ledger import Ledger

log = structlog.get_logger(__name__)


def wait_for_ledger(ledger: Ledger) -> None:
    """Containers start in any order: a database that is not up yet is worth waiting for."""
    while True:
        try:
            ledger.migrate()
        except LedgerUnavailable as error:
            log.warning("ledger_awaited", reason=error.message)
            time.sleep(1.0)
        else:
            return
