"""The lane of steps that wait for other people's servers: a hundred attempts in one process, each in a thread that
mostly sleeps. One that hangs or fails ends alone, never the process."""

import contextvars
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import structlog

from core.errors import TimeLimitExceeded, Unavailable
from core.queue import AT_ONCE
from core.task import Claim
from worker.attempt import Stopped
from worker.leases import Leases
from worker.runner import RunningAttempt, WorkerContext, close_attempt, end_attempt, record_finish, run_part
from worker.steps.base import StepContext
from worker.steps.net import NetStep
from worker.watchdog import CHECK_POINT_SECONDS

LOOK_SECONDS = 0.5
# Threads that hang in a call and were left behind; a worker with so many makes room for a fresh one.
MOST_ABANDONED = 50

NET_KINDS: dict[str, type[NetStep]] = {}
"""Each kind of step that is done by somebody else's server."""

log = structlog.get_logger(__name__)


@dataclass(eq=False)
class NetAttempt:
    running: RunningAttempt
    kind: type[NetStep]
    thread: threading.Thread | None = None
    is_over: bool = False
    """Its end is in the ledger, or was left to somebody else."""


class NetLane:
    def __init__(self, context: WorkerContext, at_once: int = AT_ONCE["net"]) -> None:
        self.context = context
        self.leases = Leases(context.ledger, context.settings.lease_seconds)
        self.attempts: list[NetAttempt] = []
        self.abandoned = 0
        self._free = threading.Semaphore(at_once)
        self._of_provider: dict[str, threading.Semaphore] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        threading.Thread(target=self._watch, name="time limits", daemon=True).start()

    def run_next(self) -> None:
        """Claim the step whose turn it is, if one waits, and begin it. Waits while as many run as may. Raises
        nothing."""
        context, presence = self.context, self.context.presence
        self._free.acquire()
        claim = None
        try:
            claim = context.ledger.claim_next(presence.queue, presence.worker_id, context.settings.lease_seconds)
        except Unavailable as error:
            log.warning("step_not_claimed", reason=error.message)
        if claim is None:
            self._free.release()
            return
        self._begin(claim)

    def close(self) -> None:
        """Wait until no attempt runs."""
        while self.attempts:
            time.sleep(LOOK_SECONDS)
        self._ended.set()
        self.leases.close()

    def _begin(self, claim: Claim) -> None:
        attempt = NetAttempt(RunningAttempt(claim), NET_KINDS.get(claim.step.kind, NetStep))
        self.leases.add(claim, attempt.running.attempt)
        self.context.running.append(attempt.running)
        self.context.presence.step_ids.append(claim.step.step_id)
        names = {"task_id": claim.task.task_id, "step_id": claim.step.step_id, "attempt": claim.step.attempt}
        with structlog.contextvars.bound_contextvars(**names):
            log.info("attempt_started", kind=claim.step.kind, waited=round(claim.waited, 3))
            work = partial(contextvars.copy_context().run, self._work, attempt)
            attempt.thread = threading.Thread(target=work, name=f"net-{claim.step.step_id}", daemon=True)
        self.attempts.append(attempt)
        attempt.thread.start()

    def _work(self, attempt: NetAttempt) -> None:
        running = attempt.running
        outcome = run_part(running, self.context, partial(self._go, attempt), attempt.kind.time_limit)
        self._over(attempt, outcome or "finished")

    def _go(self, attempt: NetAttempt) -> None:
        """Submit, unless an earlier attempt has, poll until it is done, fetch, and record."""
        running = attempt.running
        claim, its = running.claim, running.attempt
        its.shares = {"submit": 0.01, "poll": 0.94, "fetch": 0.05}
        context = self.context
        step = attempt.kind(StepContext(claim, its, context.storage, context.engine_host, context.pictures))
        with self._slot_of(attempt.kind, running):
            kept = claim.step.checkpoint or {}
            handle = kept.get("submitted")
            if handle is None:
                with its.phase("submit"):
                    handle = self._submit(step, claim, kept)
            with its.phase("poll"):
                while (done := step.poll(handle)) is not None:
                    its.advance(round(1000 * done), 1000)
                    its.wait(step.poll_seconds)
            with its.phase("fetch"):
                artifacts, receipt = step.fetch(handle)
        record_finish(running, context, artifacts, receipt, cost=step.cost(handle))

    def _submit(self, step: NetStep, claim: Claim, kept: dict[str, object]) -> dict[str, object]:
        """Return the handle, once it is recorded."""
        lost = int(str(kept.get("lost", 0)))
        if "intended" in kept:  # an attempt asked, and nobody knows whether it was heard
            lost += 1
            step.attempt.warnings.append(f"{step.provider} may have been asked, and paid, before: the answer was lost")
            log.warning("answer_lost", provider=step.provider)
        if not self.context.ledger.checkpoint(claim, {"intended": True, "lost": lost}):
            raise Stopped
        handle = step.submit()
        if not step.attempt.keep_trying(
            lambda: self.context.ledger.checkpoint(claim, {"submitted": handle, "lost": lost})
        ):
            raise Stopped
        return handle

    @contextmanager
    def _slot_of(self, kind: type[NetStep], running: RunningAttempt) -> Iterator[None]:
        """One of those that a provider has here."""
        with self._lock:
            slots = self._of_provider.setdefault(kind.provider, threading.Semaphore(kind.at_once))
        while not slots.acquire(timeout=LOOK_SECONDS):
            running.attempt.check()
        try:
            yield
        finally:
            slots.release()

    def _over(self, attempt: NetAttempt, outcome: str) -> None:
        with self._lock:
            if attempt.is_over:
                return
            attempt.is_over = True
        claim = attempt.running.claim
        self.leases.remove(claim)
        close_attempt(attempt.running, outcome, self.context)
        self.context.running.remove(attempt.running)
        self.context.presence.step_ids.remove(claim.step.step_id)
        self.attempts.remove(attempt)
        self.context.steps_done += 1
        self._free.release()

    def _watch(self) -> None:
        """End attempts that are over their time. One that hangs in a call is left behind: its lease is given up, and
        whatever it still does matches no row."""
        while not self._ended.wait(LOOK_SECONDS):
            for attempt in list(self.attempts):
                over = time.perf_counter() - attempt.running.begun - attempt.kind.time_limit
                if over > 0 and not attempt.running.attempt.out_of_time:
                    attempt.running.attempt.out_of_time = True
                    attempt.running.attempt.stop()
                if over > CHECK_POINT_SECONDS:
                    self.abandoned += 1
                    error = TimeLimitExceeded(f"it took longer than {attempt.kind.time_limit:g} s")
                    running = attempt.running
                    self._over(attempt, end_attempt(running.claim, running.attempt, error, self.context))
