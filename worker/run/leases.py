"""Keeps the claims of many attempts alive by one statement, and tells each to stop when its claim is gone."""

import threading
import time
from dataclasses import dataclass

import structlog

from core.errors import LedgerUnavailable
from core.ledger.moves import Ledger
from core.task import Claim
from worker.attempt import Attempt
from worker.run.lease import RENEW_SECONDS

log = structlog.get_logger(__name__)

Key = tuple[str, int]
"""The step's id and the number of the attempt: two attempts at one step may be here at once, of which one is over."""


@dataclass
class Held:
    claim: Claim
    attempt: Attempt
    valid_until: float
    told: tuple[int, str | None] = (0, None)
    """Progress and phase that the ledger knows."""

    def reached(self) -> tuple[int, str | None]:
        return self.attempt.progress, self.attempt.phase_name


class Leases:
    def __init__(self, ledger: Ledger, seconds: float) -> None:
        self.ledger, self.seconds = ledger, seconds
        self._held: dict[Key, Held] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        threading.Thread(target=self._keep, name="leases", daemon=True).start()

    def add(self, claim: Claim, attempt: Attempt) -> None:
        """Renew the lease of this attempt from now on."""
        with self._lock:
            self._held[key_of(claim)] = Held(claim, attempt, time.monotonic() + self.seconds)

    def remove(self, claim: Claim) -> None:
        with self._lock:
            self._held.pop(key_of(claim), None)

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
            reached = [(each.claim, *found) for each in held.values() if (found := each.reached()) != each.told]
            mine = self.ledger.renew_all([each.claim for each in held.values()], self.seconds, reached)
            for key in mine:
                held[key].valid_until = asked_at + self.seconds
            for claim, progress, phase in reached:
                held[key_of(claim)].told = progress, phase
        except LedgerUnavailable as error:
            # The ledger may be back before a lease runs out; after that another attempt may have begun.
            log.warning("leases_not_renewed", reason=error.message)
            mine = {key for key, each in held.items() if asked_at < each.valid_until}
        for key in held.keys() - mine:
            held[key].attempt.stop()


def key_of(claim: Claim) -> Key:
    return claim.step.step_id, claim.step.attempt
