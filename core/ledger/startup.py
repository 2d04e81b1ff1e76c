"""What every process does first: wait for the ledger, bring its tables up to date, and stop once it is too old for
them."""

import os
import signal
import threading

import structlog

from core.errors import LedgerTooNew, LedgerUnavailable, Unusable
from core.ledger.moves import Ledger
from core.process.unusable import EXIT_UNUSABLE, say

VERSION_SECONDS = 2.0

log = structlog.get_logger(__name__)


def wait_for_ledger(ledger: Ledger, ended: threading.Event, exit_code: int = EXIT_UNUSABLE) -> None:
    """Wait until the ledger can be used, or `ended` is set: containers start in any order.

    Ends the process with one line and `exit_code` if waiting helps nothing: its code is too old for the ledger, say.
    One that gets too old later stops in order.
    """
    while not ended.is_set():
        try:
            ledger.migrate()
        except LedgerUnavailable as error:
            log.warning("ledger_awaited", reason=error.message)
            ended.wait(1.0)
        except Unusable as error:
            say(error)
            os._exit(exit_code)  # this may be any thread, and nothing has begun
        else:
            threading.Thread(target=stop_when_too_old, args=[ledger, ended], name="version", daemon=True).start()
            return


def stop_when_too_old(ledger: Ledger, ended: threading.Event) -> None:
    """Ask this process to stop in order once the ledger is too new for it."""
    while not ended.wait(VERSION_SECONDS):
        try:
            ledger.check_version()
        except LedgerUnavailable:
            continue
        except LedgerTooNew as error:
            say(error)
            os.kill(os.getpid(), signal.SIGTERM)
            return
