"""python -m keeper: twice a second, keep the promises that nobody else will.

It can be away for an hour and everything is late, nothing is wrong. Two at once do no harm.
"""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType

import structlog

from core.config.settings import Settings, read_settings
from core.db.database import BATCH_PAUSE_SECONDS
from core.errors import Unavailable
from core.ids import id_seconds, is_id
from core.ledger.moves import Ledger
from core.ledger.reads import batched
from core.ledger.startup import wait_for_ledger
from core.process.logs import set_up_logs
from core.process.no_proxy import reach_loopback_directly
from core.process.private_files import keep_files_private, warn_of_open_places
from core.process.scratch import scratch_folder
from core.process.unusable import ends_if_unusable
from core.queue import StepQueue
from core.storage import Storage
from keeper.deliverer import Deliverer
from keeper.leases import Leases
from keeper.rests import Rests

TICK_SECONDS = 0.5
TIDY_SECONDS = 1.0
LEAVE_SECONDS = 3.0

# A step just recorded is about to be woken by whoever recorded it.
WAKE_AFTER_SECONDS = 2.0
REPORT_SECONDS = 2.0
HOUR = 3600.0
# A task may have dozens of steps, and on SQLite nobody else writes while these are deleted.
FORGOTTEN_AT_ONCE = 20
# How long after a task ended something of it may still be stored. It is looked for every hour.
LATE_SECONDS = 3 * HOUR

log = structlog.get_logger(__name__)


class Keeper:
    def __init__(self, settings: Settings, ledger: Ledger, storage: Storage, queue: StepQueue) -> None:
        self.settings, self.ledger, self.storage, self.queue = settings, ledger, storage, queue
        self.leases, self.rests = Leases(settings.lease_seconds), Rests()
        self.keeper_id = f"{socket.gethostname()}-{os.getpid()}"[-64:]
        self._next_report = self._next_hour = 0.0

    def tick(self) -> None:
        """What must not be late."""
        self._do(self.report, self.take_over, self.end_rests, self.delete_wrong_keys, self.wake)

    def tidy(self) -> None:
        """What may take its time: the storage can be slow."""
        ledger = self.ledger
        self._do(self.delete_expired, self.forget_old)
        if self._an_hour_is_over():
            self._do(ledger.forget_old_workers, ledger.forget_old_keys, ledger.delete_rare_durations)
            self._do(ledger.deliveries.forget_old, self.sweep, self.delete_late, self.forget_surplus)

    def _do(self, *duties: Callable[[], None]) -> None:
        """Each on its own: one that fails does not keep the others from being done."""
        for duty in duties:
            try:
                duty()
            except Unavailable as error:
                log.warning("duty_postponed", duty=duty.__name__, reason=error.message)
            except Exception:
                log.exception("duty_failed", duty=duty.__name__)

    def report(self) -> None:
        """For GET /health: without a keeper nobody takes over what a dead worker leaves."""
        if time.monotonic() >= self._next_report:
            self.ledger.report_keeper(self.keeper_id)
            self._next_report = time.monotonic() + REPORT_SECONDS

    def take_over(self) -> None:
        """Steps whose worker gave no sign in time."""
        for lease in self.leases.dead(self.ledger.held_leases()):
            try:
                taken = self.ledger.take_over(lease, self.settings.max_attempts)
            except Unavailable as error:  # somebody holds its row; the others need not wait
                log.warning("step_not_taken_over", step_id=lease.step_id, reason=error.message)
                continue
            if taken:
                log.warning("lease_expired", step_id=lease.step_id, attempt=lease.attempt)

    def end_rests(self) -> None:
        """Let steps be claimed whose rest is over."""
        over, to_note = self.rests.look(self.ledger.rests())
        for rest in over:
            self.ledger.end_rest(rest)
        for rest, left in to_note:
            self.ledger.note_rest(rest, left)

    def delete_wrong_keys(self) -> None:
        """What stands in Redis where others expect something else: wake-ups could not be sent, or not be read."""
        for name, fault in self.queue.delete_wrong_keys().items():
            log.warning("redis_key_deleted", key=name, reason=fault)

    def wake(self) -> None:
        """Send the wake-ups that are missing: as many should be there as steps are ready. Redis was away, or lost some,
        or a rest is over. Which step a worker claims when it is woken, the ledger says."""
        ready: dict[str, list[str]] = {}
        for step_id, queue in self.ledger.steps_to_wake(WAKE_AFTER_SECONDS):
            ready.setdefault(queue, []).append(step_id)
        for queue, step_ids in ready.items():
            queued = self.queue.queued_ids(queue)
            if not all(map(is_id, queued)):  # somebody else's: a worker would take minutes to pass over many
                self.queue.clear(queue)
                queued = set()
            missing = [step_id for step_id in step_ids if step_id not in queued]
            for step_id in missing[: max(0, len(step_ids) - len(queued))]:
                self.queue.wake(step_id, queue)
                log.info("step_woken", step_id=step_id, queue=queue)

    def _an_hour_is_over(self) -> bool:
        due = time.monotonic() >= self._next_hour
        if due:
            self._next_hour = time.monotonic() + HOUR
        return due

    def sweep(self, older_than: float = HOUR) -> None:
        """Pictures that were stored for a task that was never recorded. An upload takes seconds, not an hour."""
        old = time.time() - older_than
        stored = [found for found in self.storage.task_ids() if is_id(found) and id_seconds(found) < old]
        for task_id in self.ledger.unknown(stored):
            if self.storage.delete_upload(task_id):
                log.info("upload_swept", task_id=task_id)

    def delete_expired(self) -> None:
        """The bytes of tasks past their time; the ledger's rows stay for a while."""
        for task_id in self.ledger.expired_tasks(self.settings.result_ttl):
            self._expire(task_id)

    def _expire(self, task_id: str) -> None:
        self.storage.delete_task(task_id)
        self.ledger.mark_expired(task_id)
        log.info("task_expired", task_id=task_id)

    def forget_old(self) -> None:
        """The rows of tasks past their second time."""
        old = self.ledger.old_tasks(self.settings.task_ttl, FORGOTTEN_AT_ONCE)
        if old:
            log.info("tasks_forgotten", count=self.ledger.forget(old))

    def forget_surplus(self) -> None:
        """Tasks that are too many of their owner's, files and rows, before their time."""
        if not self.settings.max_tasks_per_key:
            return
        for batch in batched(self.ledger.surplus_tasks(self.settings.max_tasks_per_key), FORGOTTEN_AT_ONCE):
            for task in batch:
                if task.is_stored:
                    self._expire(task.task_id)
            log.info("tasks_forgotten", count=self.ledger.forget([task.task_id for task in batch]))
            time.sleep(BATCH_PAUSE_SECONDS)

    def delete_late(self) -> None:
        """What was still being stored when its task was deleted, by a worker that died or could not delete it."""
        for task_id in self.ledger.just_expired(LATE_SECONDS):
            self.storage.delete_task(task_id)


@ends_if_unusable()
def main() -> None:
    keep_files_private()
    settings = read_settings()
    set_up_logs(settings.log_format)
    reach_loopback_directly()
    ended = threading.Event()

    def leave(signum: int, frame: FrameType | None) -> None:
        ended.set()

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)
    ledger = Ledger(settings.resolved_database_url)
    wait_for_ledger(ledger, ended)
    keeper = Keeper(settings, ledger, Storage(settings.resolved_storage_url), StepQueue(settings))
    warn_of_open_places(settings.local_places)
    delivering = Deliverer(ledger, settings).start(ended)
    tidying = threading.Thread(target=tidy_until, args=[ended, keeper], name="tidying", daemon=True)
    tidying.start()
    log.info("keeper_started")
    with scratch_folder("keeper") as scratch:
        while not ended.wait(TICK_SECONDS):
            keeper.tick()
            # Told to stop meanwhile, they may have ended before this tick has.
            if not ((delivering.is_alive() and tidying.is_alive()) or ended.is_set()):
                sys.exit("kinora: a thread of the keeper died; the log says why")  # the supervisor starts a fresh one
            show_life(scratch)
    for thread in (delivering, tidying):
        thread.join(LEAVE_SECONDS)
    sys.stdout.flush()
    os._exit(0)  # a resolver or a storage that hangs must not hold up the end


def show_life(scratch: Path) -> None:
    """Touch the file of which a health check looks how old it is."""
    with suppress(OSError):  # then it sees that too
        (scratch / "alive").touch()


def tidy_until(ended: threading.Event, keeper: Keeper) -> None:
    while not ended.wait(TIDY_SECONDS):
        keeper.tidy()
