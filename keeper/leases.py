"""Which attempts are dead: those whose lease ran out and of which nothing was heard since, by this process's own clock.

The ledger's clock alone would not do. When it is set forward by an hour every lease has run out at once, though every
worker lives and renews within a second; when it is set back, a dead worker's lease would hold for an hour.
"""

import time

from core.task import HeldLease

# A living worker renews twice a second (worker/run/lease.py), so that this much silence is no accident.
SILENCE_SECONDS = 2.0
# While this process was frozen nothing could be heard: a pause between two looks counts for no more than this.
MOST_BETWEEN_LOOKS = 1.0


class Leases:
    def __init__(self, lease_seconds: float) -> None:
        self.lease_seconds = lease_seconds
        self._silent: dict[tuple[str, int, float], float] = {}
        self._looked_at = time.monotonic()

    def dead(self, held: list[HeldLease]) -> list[HeldLease]:
        """Of the leases that are held now, those whose worker is believed dead."""
        looked_at = time.monotonic()
        passed = min(looked_at - self._looked_at, MOST_BETWEEN_LOOKS)
        self._looked_at = looked_at
        # A renewed lease is another one, so its silence begins anew.
        before, self._silent = self._silent, {}
        for lease in held:
            known = (lease.step_id, lease.attempt, lease.lease_until)
            self._silent[known] = before[known] + passed if known in before else 0.0
        return [
            lease
            for lease, silent in zip(held, self._silent.values(), strict=True)
            if silent >= SILENCE_SECONDS + (0.0 if lease.overdue else self.lease_seconds)
        ]
