"""python -m keeper: once a second, keep the promises that nobody else will.

It can be away for an hour and everything is late, nothing is wrong. Two at once do no harm.
"""

import signal
import threading
from types import FrameType

import structlog

from core.config import Settings
from core.errors import Unavailable
from core.ledger import Ledger
from core.logs import set_up_logs
from core.queue import StepQueue
from core.startup import wait_for_ledger
from core.storage import Storage

TICK_SECONDS = 1.0

# A step just recorded is about to be woken by whoever recorded it.
WAKE_AFTER_SECONDS = 2.0

log = structlog.get_logger(__name__)


class Keeper:
    def __init__(self, settings: Settings, ledger: Ledger, storage: Storage, queue: StepQueue) -> None:
        self.settings, self.ledger, self.storage, self.queue = settings, ledger, storage, queue

    def tick(self) -> None:
        """Each duty on its own: one that fails does not hold up the others."""
        for duty in (self.take_over, self.wake, self.delete_expired, self.forget_old_workers):
            try:
                duty()
            except Unavailable as error:
                log.warning("duty_postponed", duty=duty.__name__, reason=error.message)
            except Exception:
                log.exception("duty_failed", duty=duty.__name__)

    def take_over(self) -> None:
        """Steps whose worker gave no sign in time."""
        for step_id in self.ledger.expire_leases(self.settings.max_attempts):
            log.warning("lease_expired", step_id=step_id)

    def wake(self) -> None:
        """Ready steps that no job stands for: Redis was away, or lost it, or a pause is over."""
        rung: dict[str, set[str]] = {}
        for step_id, queue in self.ledger.steps_to_wake(WAKE_AFTER_SECONDS):
            if queue not in rung:
                rung[queue] = self.queue.rung_for(queue)
            if step_id not in rung[queue]:
                self.queue.wake(step_id, queue)
                log.info("step_woken", step_id=step_id, queue=queue)

    def forget_old_workers(self) -> None:
        """Those not heard of for a day. Looked for before it is written, for others may wait to write."""
        if any(not worker.alive for worker in self.ledger.workers()):
            self.ledger.forget_old_workers()

    def delete_expired(self) -> None:
        """The bytes of tasks past their retention; the ledger's rows stay."""
        for task_id in self.ledger.expired_tasks(self.settings.retention_hours * 3600):
            self.storage.delete_task(task_id)
            self.ledger.mark_expired(task_id)
            log.info("task_expired", task_id=task_id)


def main() -> None:
    settings = Settings()
    set_up_logs(settings.log_format)
    ended = threading.Event()

    def leave(signum: int, frame: FrameType | None) -> None:
        ended.set()

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)
    ledger = Ledger(settings.resolved_database_url)
    wait_for_ledger(ledger)
    keeper = Keeper(settings, ledger, Storage(settings.resolved_storage_url), StepQueue(settings))
    log.info("keeper_started")
    while not ended.wait(TICK_SECONDS):
        keeper.tick()
    ledger.close()
