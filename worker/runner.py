"""The path of one step through this worker: claim it, work while the lease is kept, record what came of it."""

import time
from dataclasses import dataclass

import structlog

from core.config import Settings
from core.errors import InternalError, KinoraError, Unavailable
from core.ledger import Ledger
from core.queue import StepQueue
from core.storage import Storage
from core.task import Claim, ErrorInfo, ReadyStep
from worker.attempt import Attempt, Stopped
from worker.lease import Lease
from worker.metrics import WorkerMetrics
from worker.presence import Presence
from worker.renderers import Renderers
from worker.steps.clip import make_clip

log = structlog.get_logger(__name__)

VERBS = {"clip": make_clip}


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
    engine, begun = claim.task.engine, time.perf_counter()
    log.info("attempt_started", verb=claim.step.verb, engine=engine, waited=round(claim.waited, 3))
    with Lease(kit.ledger, claim, attempt, kit.settings.lease_seconds):
        outcome = _attempt(claim, attempt, kit)
    for phase, seconds in attempt.seconds.items():
        kit.metrics.phases.labels(engine, phase).observe(seconds)
    kit.metrics.steps.labels(engine, outcome).inc()
    log.info("attempt_ended", outcome=outcome, seconds=round(time.perf_counter() - begun, 3))


def _attempt(claim: Claim, attempt: Attempt, kit: Kit) -> str:
    """Returns the outcome's name."""
    try:
        verb = VERBS[claim.step.verb]
        artifacts, receipt = verb(claim, attempt, kit.settings, kit.storage, kit.renderers)
        ready = kit.ledger.finish(claim, artifacts, receipt, attempt.seconds)
    except Stopped:
        return "stopped"
    except Unavailable as error:
        # Nothing can be recorded or stored now. The lease runs out, and the keeper gives the step another attempt.
        log.warning("attempt_abandoned", reason=error.message)
        return "abandoned"
    except KinoraError as error:
        return _fail(claim, error, kit)
    except Exception:
        log.exception("attempt_crashed")
        return _fail(claim, InternalError("an unexpected error; the worker's log has it under this task's id"), kit)
    if ready is None:
        return "stopped"
    _wake(ready, kit)
    return "finished"


def _fail(claim: Claim, error: KinoraError, kit: Kit) -> str:
    log.warning("attempt_failed", code=error.code, reason=error.message)
    try:
        return "failed" if kit.ledger.fail(claim, ErrorInfo(error.code, error.message)) else "stopped"
    except Unavailable as unavailable:
        log.warning("attempt_abandoned", reason=unavailable.message)
        return "abandoned"


def _wake(ready: list[ReadyStep], kit: Kit) -> None:
    for step_id, queue in ready:
        try:
            kit.queue.wake(step_id, queue)
        except Unavailable as error:
            log.warning("step_not_woken", step_id=step_id, reason=error.message)  # the keeper will
