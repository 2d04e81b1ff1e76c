"""The path of one step through this worker: claim it, work while the lease is kept, record what came of it."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import structlog

from core.config import Settings
from core.errors import GpuLost, InternalError, KinoraError, TimeLimitExceeded, Unavailable
from core.ledger import Ledger
from core.previews import Previews
from core.queue import StepQueue
from core.storage import Storage
from core.task import Claim, ErrorInfo, ReadyStep
from worker.attempt import Attempt, Stopped
from worker.lease import Lease
from worker.metrics import WorkerMetrics
from worker.presence import Presence
from worker.renderers import Renderers
from worker.screening import Screening
from worker.steps.clip import make_clip
from worker.steps.join import join_clips
from worker.watchdog import Watchdog

log = structlog.get_logger(__name__)

VERBS = {"clip": make_clip, "join": join_clips}


@dataclass
class Kit:
    """What a worker has at hand for every step."""

    settings: Settings
    ledger: Ledger
    storage: Storage
    queue: StepQueue
    renderers: Renderers
    presence: Presence
    metrics: WorkerMetrics
    running: tuple[Claim, Attempt] | None = None
    steps_done: int = 0
    gpu_lost: bool = False


def run_step(step_id: str, kit: Kit) -> None:
    """Do what `step_id` stands for, if it is there to be done. Raises nothing: its end is in the ledger or the log."""
    try:
        claim = kit.ledger.claim(step_id, kit.presence.worker_id, kit.settings.lease_seconds)
    except Unavailable as error:
        log.warning("step_not_claimed", step_id=step_id, reason=error.message)
        return
    if claim is None:
        return
    names = {"task_id": claim.task.task_id, "step_id": step_id, "attempt": claim.step.attempt}
    if claim.task.owner:
        names["owner"] = claim.task.owner
    with structlog.contextvars.bound_contextvars(**names):
        kit.presence.step_id = step_id
        kit.metrics.busy.set(1)
        try:
            _work(claim, kit)
        finally:
            kit.metrics.busy.set(0)
            kit.presence.step_id = None


def _work(claim: Claim, kit: Kit) -> None:
    attempt = Attempt()
    kit.running = claim, attempt
    engine, begun = claim.task.engine, time.perf_counter()
    log.info("attempt_started", verb=claim.step.verb, engine=engine, waited=round(claim.waited, 3))
    with (
        Lease(kit.ledger, claim, attempt, kit.settings.lease_seconds),
        Watchdog(attempt, kit.settings.step_time_limit),
        Screening(Previews(kit.queue.redis), claim.task.task_id, attempt),
    ):
        outcome = _attempt(claim, attempt, kit)
        if outcome != "finished" and attempt.stored_bytes:
            _discard(claim, kit)
    kit.running = None
    kit.steps_done += 1
    for phase, seconds in attempt.seconds.items():
        kit.metrics.phases.labels(engine, phase).observe(seconds)
    kit.metrics.steps.labels(engine, outcome).inc()
    log.info("attempt_ended", outcome=outcome, seconds=round(time.perf_counter() - begun, 3))


def _attempt(claim: Claim, attempt: Attempt, kit: Kit) -> str:
    """Returns the outcome's name."""
    try:
        verb = VERBS[claim.step.verb]
        artifacts, receipt = verb(claim, attempt, kit.settings, kit.storage, kit.renderers)
        ready = attempt.keep_trying(
            lambda: kit.ledger.finish(
                claim, artifacts, receipt, attempt.seconds, attempt.warnings, stored_bytes=attempt.stored_bytes
            )
        )
    except Stopped:
        if attempt.out_of_time:
            limit = f"it took longer than {kit.settings.step_time_limit:g} s"
            return _end(claim, attempt, TimeLimitExceeded(limit), kit)
        return "stopped"
    except KinoraError as error:
        return _end(claim, attempt, error, kit)
    except Exception:
        log.exception("attempt_crashed")
        unexpected = InternalError("an unexpected error; the worker's log has it under this task's id")
        return _end(claim, attempt, unexpected, kit)
    if ready is None:
        return "stopped"
    _wake(ready, kit)
    return "finished"


# Another worker, or this one afresh, may do better; anything else would end the same way again.
WORTH_ANOTHER_ATTEMPT = (Unavailable, GpuLost, TimeLimitExceeded)


def _end(claim: Claim, attempt: Attempt, error: KinoraError, kit: Kit) -> str:
    """Record why the attempt did not finish."""
    log.warning("attempt_failed", code=error.code, reason=error.message)
    kit.gpu_lost = kit.gpu_lost or isinstance(error, GpuLost)
    info = ErrorInfo(error.code, error.message)
    try:
        if isinstance(error, WORTH_ANOTHER_ATTEMPT):
            return "lost" if kit.ledger.lose(claim, info, kit.settings.max_attempts) else "stopped"
        return "failed" if kit.ledger.fail(claim, info) else "stopped"
    except Unavailable as unavailable:
        # Then the lease runs out, and the keeper gives the step another attempt.
        log.warning("attempt_abandoned", reason=unavailable.message)
        return "abandoned"


def _discard(claim: Claim, kit: Kit) -> None:
    """Delete what the attempt stored for nothing: its task may be deleted already, and nobody would look for it."""
    try:
        if kit.ledger.is_in_vain(claim):
            kit.storage.delete_attempt(claim.task.task_id, claim.step.step_id, claim.step.attempt)
    except Unavailable as error:
        log.warning("attempt_not_discarded", reason=error.message)  # the keeper deletes it with the task


def hand_over(kit: Kit) -> None:
    """Give the running step back, for another worker to begin at once. No attempt is used up."""
    if kit.running is None:
        return
    claim, attempt = kit.running
    try:
        if kit.ledger.give_back(claim):
            _wake([ReadyStep(claim.step.step_id, claim.step.queue)], kit, at_front=True)
            log.info("step_given_back", step_id=claim.step.step_id)
    except Unavailable as error:
        log.warning("step_not_given_back", step_id=claim.step.step_id, reason=error.message)  # its lease runs out
    finally:
        attempt.stop()  # not before: once it has stopped, the process leaves and takes this thread along


def reason_to_leave(kit: Kit) -> str | None:
    """Why this process should make room for a fresh one; None: it can go on."""
    most_steps, most_memory = kit.settings.worker_max_steps, kit.settings.worker_max_memory_mb
    if kit.gpu_lost:
        return "the GPU is lost to this process"
    if most_steps and kit.steps_done >= most_steps:
        return f"{kit.steps_done} steps are done"
    if most_memory and resident_mb() > most_memory:
        return f"it holds {resident_mb():.0f} MB"
    return None


def resident_mb() -> float:
    """Memory this process holds now, in units of 1,000,000 bytes (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _wake(ready: list[ReadyStep], kit: Kit, at_front: bool = False) -> None:
    for step_id, queue in ready:
        try:
            kit.queue.wake(step_id, queue, at_front)
        except Unavailable as error:
            log.warning("step_not_woken", step_id=step_id, reason=error.message)  # the keeper will
