"""Keeps an attempt's claim alive while it works, and tells it to stop when the claim is gone."""

import threading
import time
from types import TracebackType

import structlog

from core.errors import LedgerUnavailable
from core.ledger.moves import Ledger
from core.task import Claim
from worker.attempt import Attempt

# Cancel is seen within this and one check point; it must be well under the lease.
RENEW_SECONDS = 0.5

log = structlog.get_logger(__name__)


class Lease:
    """`with Lease(...)`: renews in a thread, carries the progress along, and calls `attempt.stop()` when it must."""

    def __init__(self, ledger: Ledger, claim: Claim, attempt: Attempt, seconds: float) -> None:
        self.ledger, self.claim, self.attempt, self.seconds = ledger, claim, attempt, seconds
        self._ended = threading.Event()
        self._valid_until = time.monotonic() + seconds
        self._thread = threading.Thread(target=self._keep, name=f"lease-{claim.step.step_id}", daemon=True)

    def __enter__(self) -> "Lease":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _keep(self) -> None:
        while not self._ended.wait(RENEW_SECONDS):
            try:
                held = self._renew()
            except Exception:
                log.exception("lease_not_renewed")
                held = False
            if not held:
                self.attempt.stop()
                return

    def _renew(self) -> bool:
        asked_at = time.monotonic()
        try:
            held = self.ledger.renew(self.claim, self.seconds, self.attempt.progress, self.attempt.phase_name)
        except LedgerUnavailable as error:
            # The ledger may be back before the lease runs out; after that another attempt may have begun.
            log.warning("lease_not_renewed", reason=error.message)
            return asked_at < self._valid_until
        self._valid_until = asked_at + self.seconds
        return held
