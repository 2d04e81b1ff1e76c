"""Keeps the claims of many attempts alive by one statement, and tells each to stop when its claim is gone."""

import threading
import time

import structlog

from core.errors import LedgerUnavailable
from core.ledger import Ledger
from core.task import Claim
from worker.attempt import Attempt
from worker.lease import RENEW_SECONDS

log = structlog.get_logger(__name__)


class Leases:
    def __init__(self, ledger: Ledger, seconds: float) -> None:
        self.ledger, self.seconds = ledger, seconds
        self._held: dict[str, tuple[Claim, Attempt]] = {}
        """By the step's id."""
        self._valid_until: dict[str, float] = {}
        self._told: dict[str, tuple[int, str | None]] = {}
        """Progress and phase that the ledger knows."""
        self._lock = threading.Lock()
        self._ended = threading.Event()
        threading.Thread(target=self._keep, name="leases", daemon=True).start()

    def add(self, claim: Claim, attempt: Attempt) -> None:
        """Renew the lease of this attempt from now on."""
        with self._lock:
            self._held[claim.step.step_id] = claim, attempt
            self._valid_until[claim.step.step_id] = time.monotonic() + self.seconds

    def remove(self, claim: Claim) -> None:
        with self._lock:
            for kept in (self._held, self._valid_until, self._told):
                kept.pop(claim.step.step_id, None)

    def close(self) -> None:
        """Renew nothing any more."""
        self._ended.set()

    def _keep(self) -> None:
        while not self._ended.wait(RENEW_SECONDS):
            try:
                self._renew()
            except Exception:
                log.exception("leases_not_renewed")

    def _renew(self) -> None:
        with self._lock:
            held = dict(self._held)
        if not held:
            return
        asked_at = time.monotonic()
        try:
            mine = self.ledger.renew_all([claim for claim, _ in held.values()], self.seconds)
            self._tell_progress({step_id: held[step_id] for step_id in mine})
        except LedgerUnavailable as error:
            # The ledger may be back before a lease runs out; after that another attempt may have begun.
            log.warning("leases_not_renewed", reason=error.message)
            mine = {step_id for step_id in held if asked_at < self._valid_until.get(step_id, 0.0)}
        else:
            with self._lock:
                self._valid_until |= dict.fromkeys(mine & self._held.keys(), asked_at + self.seconds)
        for step_id in held.keys() - mine:
            held[step_id][1].stop()

    def _tell_progress(self, held: dict[str, tuple[Claim, Attempt]]) -> None:
        """Tell the ledger of those that got further: seldom, beside how often leases are renewed."""
        for step_id, (claim, attempt) in held.items():
            found = attempt.progress, attempt.phase_name
            if self._told.get(step_id) != found:
                self._told[step_id] = found
                self.ledger.renew(claim, self.seconds, *found)
