"""The path of one step through this worker: claim it, work while the lease is kept, record what came of it.

Its render stage, which needs the engine, runs in the thread that calls. Its finalize stage follows there; on a GPU it
runs in another thread, and the next step renders meanwhile. Whatever ends an attempt, in either stage, is dealt with by
the same code.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import structlog

from core.config.settings import Settings
from core.errors import EncodingFailed, GpuLost, InternalError, KinoraError, Retry, TimeLimitExceeded, Unavailable
from core.ledger.moves import Ledger
from core.live_previews import LivePreviews
from core.plan.steps import uses_all_cores
from core.queue import StepQueue
from core.storage import Storage
from core.task import Claim, ErrorInfo, ReadyStep, Step, Task
from worker.attempt import Attempt, Stopped
from worker.engines.host import EngineHost
from worker.metrics import WorkerMetrics
from worker.run.finalizer import Finalizer
from worker.run.lease import Lease
from worker.run.presence import Presence
from worker.run.preview_publisher import PreviewPublisher
from worker.run.watchdog import LastResort, Watchdog
from worker.steps.base import Made, StepContext, StepHandler
from worker.steps.clip import ClipStep
from worker.steps.join import JoinStep
from worker.steps.pictures import Pictures
from worker.steps.smooth import SmoothStep

log = structlog.get_logger(__name__)

LOADED_FIRST_SECONDS = 30.0

STEP_KINDS: dict[str, type[StepHandler]] = {"clip": ClipStep, "smooth": SmoothStep, "join": JoinStep}


@dataclass(eq=False)
class RunningAttempt:
    """An attempt on its way through this worker."""

    claim: Claim
    attempt: Attempt = field(default_factory=Attempt)
    begun: float = field(default_factory=time.perf_counter)
    render_seconds: float = 0.0
    """Of the render stage: until it needed the engine no more."""
    handler: StepHandler | None = None
    """Of its step; None before its render stage."""
    waited_seconds: float = 0.0
    """Then, for the finalize stage of the step before."""


@dataclass
class WorkerContext:
    """What a worker has at hand for every step, and what it works on."""

    settings: Settings
    ledger: Ledger
    storage: Storage
    queue: StepQueue
    engine_host: EngineHost
    presence: Presence
    metrics: WorkerMetrics
    scratch: Path
    """A folder of this process alone, in which each attempt has one; deleted at the end."""
    finalizer: Finalizer = field(default_factory=Finalizer)
    last_resort: LastResort = field(default_factory=LastResort)
    running: list[RunningAttempt] = field(default_factory=list)
    """In the order in which they were claimed."""
    steps_done: int = 0
    """Or begun, where several run at a time."""
    gpu_lost: bool = False

    def __post_init__(self) -> None:
        self.pictures = Pictures(self.settings, self.storage, self.scratch)
        self.metrics.busy.set_function(lambda: float(bool(self.running)))


def run_claim(claim: Claim, context: WorkerContext) -> None:
    """Do the step; its finalize stage may still run when this returns. Raises nothing: its end is in the ledger or the
    log."""
    with log_names(claim):
        _work(RunningAttempt(claim), context)


def log_names(claim: Claim) -> AbstractContextManager[object]:
    """Return a context in which every line of the log names this attempt, its step, task and owner."""
    names = {"task_id": claim.task.task_id, "step_id": claim.step.step_id, "attempt": claim.step.attempt}
    if claim.task.owner:
        names["owner"] = claim.task.owner
    return structlog.contextvars.bound_contextvars(**names)


def preference(context: WorkerContext) -> tuple[list[str], float]:
    """Return the engines whose steps go first, and for how many seconds: to load another one takes as long as several
    clips, on a GPU."""
    host = context.engine_host
    return (list(host.loaded), LOADED_FIRST_SECONDS) if host.device == "cuda" and host.loaded else ([], 0.0)


def _work(running: RunningAttempt, context: WorkerContext) -> None:
    claim, attempt = running.claim, running.attempt
    log.info("attempt_started", kind=claim.step.kind, engine=claim.task.engine, waited=round(claim.waited, 3))
    with ExitStack() as held:  # until the attempt's own end, in whichever thread that is
        held.enter_context(_counted(running, context))
        held.enter_context(Lease(context.ledger, claim, attempt, context.settings.lease_seconds))
        held.enter_context(Watchdog(attempt, context.settings.step_time_limit, context.last_resort))
        held.enter_context(PreviewPublisher(LivePreviews(context.queue.redis), claim.task.task_id, attempt))
        limit = context.settings.step_time_limit
        outcome = run_part(running, context, partial(_render_stage, running, held, context), limit)
        if outcome:
            close_attempt(running, outcome, context)
        elif overlaps(context):
            context.finalizer.begin(partial(_finalize_stage, running, held.pop_all(), context))
        else:
            _finalize_stage(running, held.pop_all(), context)


def overlaps(context: WorkerContext) -> bool:
    """Return whether the next step may render while one is finalized. An engine on the CPU would lose its cores to
    that: no more clips an hour, and each slower by what nobody could foretell."""
    return context.engine_host.device == "cuda"


@contextmanager
def _counted(running: RunningAttempt, context: WorkerContext) -> Iterator[None]:
    """Seen by whoever asks what this worker does."""
    step_id = running.claim.step.step_id
    context.running.append(running)
    context.presence.step_ids.append(step_id)
    try:
        yield
    finally:
        context.running.remove(running)
        context.presence.step_ids.remove(step_id)


@contextmanager
def attempt_folder(context: WorkerContext) -> Iterator[Path]:
    """Yield an empty folder, gone at the end."""
    folder = tempfile.mkdtemp(prefix="kinora-attempt-", dir=context.scratch)
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _render_stage(running: RunningAttempt, held: ExitStack, context: WorkerContext) -> None:
    """Run the render stage, then wait for the finalize stage of the step before."""
    claim, host = running.claim, context.engine_host
    folder = held.enter_context(attempt_folder(context))
    step = StepContext(claim, running.attempt, context.storage, host, context.pictures, folder)
    running.handler = STEP_KINDS[claim.step.kind](step)
    may_last = uses_all_cores(claim.step.kind)
    next_one = partial(peek, context, STEP_KINDS)
    try:
        with context.pictures.reading_ahead(context.ledger, next_one) if may_last else nullcontext():
            running.handler.prepare()
            running.handler.render()
    finally:
        context.metrics.engine_busy.labels(running.claim.task.engine).inc(running.attempt.engine_seconds)
    running.render_seconds = time.perf_counter() - running.begun
    context.finalizer.wait(running.attempt.check)
    running.waited_seconds = time.perf_counter() - running.begun - running.render_seconds


def peek(context: WorkerContext, kinds: Collection[str]) -> tuple[Step, Task] | None:
    """Return the step that this worker will claim next of these kinds, as things are."""
    return context.ledger.peek_next(context.presence.queue, *preference(context), kinds=kinds)


def _finalize_stage(running: RunningAttempt, held: ExitStack, context: WorkerContext) -> None:
    with held:
        limit = context.settings.step_time_limit
        outcome = run_part(running, context, partial(_finish, running, context), limit)
        close_attempt(running, outcome or "finished", context)


def _finish(running: RunningAttempt, context: WorkerContext) -> None:
    record_finish(running, context, cast(StepHandler, running.handler).finish())


def record_finish(
    running: RunningAttempt, context: WorkerContext, made: Made, cost: dict[str, Any] | None = None
) -> None:
    """Record what the attempt made and planned, and wake workers for what can be done now. Raises Stopped."""
    attempt = running.attempt
    ready = attempt.keep_trying(
        lambda: context.ledger.finish(
            running.claim,
            made.artifacts,
            made.receipt,
            attempt.seconds,
            attempt.warnings,
            more=made.plan.new_steps() if made.plan else (),
            result_step=made.plan.result_step if made.plan else None,
            cost=cost,
            stored_bytes=attempt.stored_bytes,
            render_seconds=running.render_seconds if overlaps(context) else None,
            waited_seconds=running.waited_seconds,
        )
    )
    if ready is None:
        raise Stopped
    _wake(ready, context)


def close_attempt(running: RunningAttempt, outcome: str, context: WorkerContext) -> None:
    """Leave nothing behind, and count it."""
    engine = running.claim.task.engine
    if outcome != "finished":
        discard(running, context)
    for phase, seconds in running.attempt.seconds.items():
        context.metrics.phases.labels(engine, phase).observe(seconds)
    context.metrics.steps.labels(engine, outcome).inc()
    log.info("attempt_ended", outcome=outcome, seconds=round(time.perf_counter() - running.begun, 3))


def run_part(
    running: RunningAttempt, context: WorkerContext, part: Callable[[], None], time_limit: float
) -> str | None:
    """Do a part of it. Returns the outcome's name if the attempt ended there."""
    claim, attempt = running.claim, running.attempt
    try:
        part()
    except Stopped:
        if attempt.out_of_time:
            limit = f"it took longer than {time_limit:g} s"
            return end_attempt(claim, attempt, TimeLimitExceeded(limit), context)
        return "stopped"
    except KinoraError as error:
        return end_attempt(claim, attempt, error, context)
    except OSError as error:  # stores have errors of their own
        failed = EncodingFailed(f"the worker's disk: {error.strerror or type(error).__name__}")
        return end_attempt(claim, attempt, failed, context)
    except Exception:
        log.exception("attempt_crashed")
        unexpected = InternalError("an unexpected error; the worker's log has it under this task's id")
        return end_attempt(claim, attempt, unexpected, context)
    return None


def end_attempt(claim: Claim, attempt: Attempt, error: KinoraError, context: WorkerContext) -> str:
    """Record why the attempt did not finish."""
    # What an engine says may quote what was asked for: it is for the task's owner, not for the log.
    reason = {"reason": error.message} if isinstance(error, Unavailable) else {}
    log.warning("attempt_failed", code=error.code, phase=attempt.phase_name, **reason)
    context.gpu_lost = context.gpu_lost or isinstance(error, GpuLost)
    info = ErrorInfo(error.code, error.message)
    try:
        if error.retry is not Retry.NEVER:
            rest = float(error.retry_after or 0)
            return "lost" if context.ledger.lose(claim, info, context.settings.max_attempts, rest) else "stopped"
        return "failed" if context.ledger.fail(claim, info) else "stopped"
    except Unavailable as unavailable:
        # Then the lease runs out, and the keeper gives the step another attempt.
        log.warning("attempt_abandoned", reason=unavailable.message)
        return "abandoned"


def discard(running: RunningAttempt, context: WorkerContext) -> None:
    """Delete what the attempt stored for nothing: its task may be deleted already, and nobody would look for it."""
    claim = running.claim
    try:
        if running.attempt.stored_bytes and context.ledger.is_in_vain(claim):
            context.storage.delete_attempt(claim.task.task_id, claim.step.step_id, claim.step.attempt)
    except Unavailable as error:
        log.warning("attempt_not_discarded", reason=error.message)  # the keeper deletes it with the task


def release_steps(context: WorkerContext) -> None:
    """Give every running step back, for another worker to claim at once. No attempt is used up."""
    running, given_back = list(context.running), []
    try:
        for claim in [each.claim for each in running]:
            try:
                if context.ledger.give_back(claim):
                    given_back.append(ReadyStep(claim.step.step_id, claim.step.queue))
                    log.info("step_given_back", step_id=claim.step.step_id)
            except Unavailable as error:  # its lease runs out
                log.warning("step_not_given_back", step_id=claim.step.step_id, reason=error.message)
        _wake(given_back, context)
    finally:
        for each in running:  # not before: once all have stopped, the process leaves and takes this thread along
            each.attempt.stop()


def reason_to_leave(context: WorkerContext, looks_at_memory: bool = True) -> str | None:
    """Return why this process should make room for a fresh one; None: it can go on."""
    most_steps, most_memory = context.settings.worker_max_steps, context.settings.worker_max_memory_mb
    if context.gpu_lost:
        return "the GPU is lost to this process"
    if most_steps and context.steps_done >= most_steps:
        return f"{context.steps_done} steps are done or begun"
    if most_memory and looks_at_memory and resident_mb() > most_memory:
        return f"it holds {resident_mb():.0f} MB"
    return None


def resident_mb() -> float:
    """Memory this process holds now, in units of 1,000,000 bytes (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _wake(ready: list[ReadyStep], context: WorkerContext) -> None:
    for step_id, queue in ready:
        try:
            context.queue.wake(step_id, queue)
        except Unavailable as error:
            log.warning("step_not_woken", step_id=step_id, reason=error.message)  # the keeper will, and the others
            return
