"""The path of one step through this worker: claim it, work while the lease is kept, record what came of it.

Its render stage, which needs the engine, runs in the thread that calls. Its finalize stage runs in another thread; on a
GPU the next step renders meanwhile. Whatever ends an attempt, in either stage, is dealt with by the same code.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
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
from worker.engines.host import EngineHost
from worker.finalizer import Finalizer
from worker.lease import Lease
from worker.metrics import WorkerMetrics
from worker.pictures import Pictures
from worker.presence import Presence
from worker.screening import Screening
from worker.steps.clip import make_clip
from worker.steps.join import join_clips
from worker.steps.smooth import smooth_clip
from worker.steps.verb import Work, made
from worker.watchdog import Watchdog

log = structlog.get_logger(__name__)

LOADED_FIRST_SECONDS = 30.0

VERBS = {"clip": make_clip, "smooth": smooth_clip, "join": join_clips}


@dataclass(eq=False)
class Run:
    """An attempt on its way through this worker."""

    claim: Claim
    attempt: Attempt = field(default_factory=Attempt)
    begun: float = field(default_factory=time.perf_counter)
    render_seconds: float = 0.0
    """Of the render stage: until it needed the engine no more."""
    waited_seconds: float = 0.0
    """Then, for the finalize stage of the step before."""


@dataclass
class Kit:
    """What a worker has at hand for every step."""

    settings: Settings
    ledger: Ledger
    storage: Storage
    queue: StepQueue
    engine_host: EngineHost
    presence: Presence
    metrics: WorkerMetrics
    finalizer: Finalizer = field(default_factory=Finalizer)
    running: list[Run] = field(default_factory=list)
    """At most one that finalizes, and one that renders."""
    steps_done: int = 0
    """Rendered; the last one may still be finalized."""
    gpu_lost: bool = False

    def __post_init__(self) -> None:
        self.pictures = Pictures(self.settings, self.storage)
        self.metrics.busy.set_function(lambda: float(bool(self.running)))


def run_step(step_id: str, kit: Kit) -> None:
    """Do what `step_id` stands for, if it is there to be done; its finalize stage may still run when this returns.
    Raises nothing: its end is in the ledger or the log. Another step may go first, whose engine is loaded already."""
    try:
        loaded_first = _of_loaded_engine(step_id, kit)
        if loaded_first:
            _wake([ReadyStep(step_id, kit.presence.queue)], kit, at_front=True)  # it is the next one again
            step_id = loaded_first
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
        _work(Run(claim), kit)
    kit.steps_done += 1


def _of_loaded_engine(step_id: str, kit: Kit) -> str | None:
    """Return a step that goes before `step_id`, whose engine would have to be loaded, which takes as long as several
    clips; None if there is none. Nobody waits for longer than LOADED_FIRST_SECONDS because of it."""
    if kit.engine_host.device != "cuda" or not kit.engine_host.loaded:
        return None
    return kit.ledger.first_of_engines(list(kit.engine_host.loaded), step_id, LOADED_FIRST_SECONDS)


def _work(run: Run, kit: Kit) -> None:
    claim, attempt = run.claim, run.attempt
    log.info("attempt_started", verb=claim.step.verb, engine=claim.task.engine, waited=round(claim.waited, 3))
    with ExitStack() as held:  # until the attempt's own end, in whichever thread that is
        held.enter_context(_counted(run, kit))
        held.enter_context(Lease(kit.ledger, claim, attempt, kit.settings.lease_seconds))
        held.enter_context(Watchdog(attempt, kit.settings.step_time_limit))
        held.enter_context(Screening(Previews(kit.queue.redis), claim.task.task_id, attempt))
        work = VERBS[claim.step.verb](claim, attempt, kit.storage, kit.engine_host, kit.pictures)
        outcome = _attempt(run, kit, partial(_render_stage, run, work, kit))
        if outcome:
            _close(run, outcome, kit)
        else:
            kit.finalizer.begin(partial(_finalize_stage, run, work, held.pop_all(), kit))
            if not overlaps(kit):
                kit.finalizer.wait()


def overlaps(kit: Kit) -> bool:
    """Return whether the next step may render while one is finalized. An engine on the CPU would lose its cores to
    that: no more clips an hour, and each slower by what nobody could foretell."""
    return kit.engine_host.device == "cuda"


@contextmanager
def _counted(run: Run, kit: Kit) -> Iterator[None]:
    """Seen by whoever asks what this worker does."""
    step_id = run.claim.step.step_id
    kit.running.append(run)
    kit.presence.step_ids.append(step_id)
    try:
        yield
    finally:
        kit.running.remove(run)
        kit.presence.step_ids.remove(step_id)


def _render_stage(run: Run, work: Work, kit: Kit) -> None:
    """Run the render stage, then wait for the finalize stage of the step before."""
    try:
        with kit.pictures.reading_ahead(kit.ledger, kit.presence.queue):
            next(work)
    finally:
        kit.metrics.engine_busy.labels(run.claim.task.engine).inc(run.attempt.engine_seconds)
    run.render_seconds = time.perf_counter() - run.begun
    kit.finalizer.wait(run.attempt.check)
    run.waited_seconds = time.perf_counter() - run.begun - run.render_seconds


def _finalize_stage(run: Run, work: Work, held: ExitStack, kit: Kit) -> None:
    with held:
        outcome = _attempt(run, kit, partial(_finish, run, work, kit))
        _close(run, outcome or "finished", kit)


def _finish(run: Run, work: Work, kit: Kit) -> None:
    artifacts, receipt = made(work)
    attempt = run.attempt
    ready = attempt.keep_trying(
        lambda: kit.ledger.finish(
            run.claim,
            artifacts,
            receipt,
            attempt.seconds,
            attempt.warnings,
            stored_bytes=attempt.stored_bytes,
            render_seconds=run.render_seconds if overlaps(kit) else None,
            waited_seconds=run.waited_seconds,
        )
    )
    if ready is None:
        raise Stopped
    _wake(ready, kit, at_front=True)  # a task that has begun is the next one of the queue


def _close(run: Run, outcome: str, kit: Kit) -> None:
    """Leave nothing behind, and count it."""
    engine = run.claim.task.engine
    if outcome != "finished" and run.attempt.stored_bytes:
        _discard(run.claim, kit)
    for phase, seconds in run.attempt.seconds.items():
        kit.metrics.phases.labels(engine, phase).observe(seconds)
    kit.metrics.steps.labels(engine, outcome).inc()
    log.info("attempt_ended", outcome=outcome, seconds=round(time.perf_counter() - run.begun, 3))


def _attempt(run: Run, kit: Kit, part: Callable[[], None]) -> str | None:
    """Do a part of it. Returns the outcome's name where the attempt ended there."""
    claim, attempt = run.claim, run.attempt
    try:
        part()
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
    return None


# Another worker, or this one afresh, may do better; anything else would end the same way again.
WORTH_ANOTHER_ATTEMPT = (Unavailable, GpuLost, TimeLimitExceeded)


def _end(claim: Claim, attempt: Attempt, error: KinoraError, kit: Kit) -> str:
    """Record why the attempt did not finish."""
    # What an engine says may quote what was asked for: it is for the task's owner, not for the log.
    reason = {"reason": error.message} if isinstance(error, Unavailable) else {}
    log.warning("attempt_failed", code=error.code, phase=attempt.phase_name, **reason)
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
    """Give what runs back, for another worker to begin at once. No attempt is used up."""
    for run in reversed(kit.running):  # each goes to the front of the queue, so that the first comes first again
        claim = run.claim
        try:
            if kit.ledger.give_back(claim):
                _wake([ReadyStep(claim.step.step_id, claim.step.queue)], kit, at_front=True)
                log.info("step_given_back", step_id=claim.step.step_id)
        except Unavailable as error:
            log.warning("step_not_given_back", step_id=claim.step.step_id, reason=error.message)  # its lease runs out
        finally:
            run.attempt.stop()  # not before: once it has stopped, the process leaves and takes this thread along


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
