"""The lane of steps that wait for other people's servers: a hundred attempts in one process, each in a thread that
mostly sleeps. One that hangs or fails ends alone, never the process."""

import threading
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import structlog

from core.errors import NotTaken, StepFailed, TimeLimitExceeded
from core.ledger.checkpoints import Checkpoint, lost_answers
from core.task import Claim
from worker.attempt import Stopped
from worker.run.lanes import ThreadsLane, steps_at_once
from worker.run.leases import Leases
from worker.run.runner import (
    RunningAttempt,
    WorkerContext,
    attempt_folder,
    close_attempt,
    discard,
    end_attempt,
    log_names,
    record_finish,
    run_part,
)
from worker.run.watchdog import CHECK_POINT_SECONDS
from worker.steps.base import StepContext
from worker.steps.net import NetStep

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
    is_over: bool = False
    """Its end is in the ledger, or was left to somebody else."""


class NetLane(ThreadsLane):
    drains_at_close = True

    def __init__(self, context: WorkerContext, at_once: int | None = None) -> None:
        super().__init__(context, at_once or steps_at_once("net"))
        self.leases = Leases(context.ledger, context.settings.lease_seconds)
        self.attempts: list[NetAttempt] = []
        self.abandoned = 0
        self._lock = threading.Lock()
        self._ended = threading.Event()
        threading.Thread(target=self._watch, name="time limits", daemon=True).start()

    def known_kinds(self) -> frozenset[str]:
        return frozenset(NET_KINDS)

    def free_kinds(self) -> frozenset[str]:
        """Return those whose provider has a slot free here, so that one which is slow keeps nobody waiting but its
        own."""
        busy = Counter(attempt.kind.provider for attempt in list(self.attempts))
        return frozenset(name for name, kind in NET_KINDS.items() if busy[kind.provider] < kind.at_once)

    def reason_to_leave(self) -> str | None:
        hanging = f"{self.abandoned} calls hang in it" if self.abandoned >= MOST_ABANDONED else None
        return super().reason_to_leave() or hanging

    def close(self) -> None:
        """Begin nothing any more, and wait until no attempt runs."""
        self.closing = True
        while self.attempts:
            time.sleep(LOOK_SECONDS)
        self._ended.set()
        self.leases.close()

    def begin(self, claim: Claim) -> None:
        attempt = NetAttempt(RunningAttempt(claim), NET_KINDS[claim.step.kind])
        self.leases.add(claim, attempt.running.attempt)
        self.context.running.append(attempt.running)
        self.context.presence.step_ids.append(claim.step.step_id)
        self.attempts.append(attempt)
        with log_names(claim):
            log.info("attempt_started", kind=claim.step.kind, waited=round(claim.waited, 3))
            self.start(partial(self._work, attempt), claim, partial(self._over, attempt, "stopped"))

    def _work(self, attempt: NetAttempt) -> None:
        outcome: str | None = "crashed"
        try:
            outcome = run_part(
                attempt.running, self.context, partial(self._in_a_folder, attempt), attempt.kind.time_limit
            )
        finally:
            self._over(attempt, outcome or "finished")

    def _in_a_folder(self, attempt: NetAttempt) -> None:
        with attempt_folder(self.context) as folder:
            self._go(attempt, folder)

    def _go(self, attempt: NetAttempt, folder: Path) -> None:
        """Submit, unless an earlier attempt has, poll until it is done, fetch, and record."""
        running, context = attempt.running, self.context
        claim, its = running.claim, running.attempt
        its.shares = {"submit": 0.01, "poll": 0.94, "fetch": 0.05}
        step = attempt.kind(StepContext(claim, its, context.storage, context.engine_host, context.pictures, folder))
        kept = cast(Checkpoint, claim.step.checkpoint or {})
        if "submitted" in kept:
            handle = kept["submitted"]
        else:
            with its.phase("submit"):
                handle = self._submit(step, claim, kept)
        # From here on another attempt would only do the same: what fails for a while is tried again.
        with its.phase("poll"):
            while (done := its.keep_trying(partial(step.poll, handle))) is not None:
                its.advance(round(1000 * done), 1000)
                its.wait(step.poll_seconds)
        with its.phase("fetch"):
            made = its.keep_trying(partial(step.fetch, handle))
            cost = its.keep_trying(partial(step.cost, handle))
        record_finish(running, context, made, cost)

    def _submit(self, step: NetStep, claim: Claim, kept: Checkpoint) -> dict[str, Any]:
        """Return the handle, once that is recorded."""
        if "intended" in kept:  # an attempt asked, and nobody knows whether it was heard
            log.warning("answer_lost", provider=step.provider)
        asked: Checkpoint = {"provider": step.provider, "lost": lost_answers(kept)}
        self._keep(step, claim, {**asked, "intended": True})
        try:
            handle = step.submit()
        except (NotTaken, StepFailed):  # it has heard, and does not do it
            self._keep(step, claim, asked)
            raise
        self._keep(step, claim, {**asked, "submitted": handle})
        return handle

    def _keep(self, step: NetStep, claim: Claim, data: Checkpoint) -> None:
        if not step.attempt.keep_trying(lambda: self.context.ledger.checkpoint(claim, dict(data))):
            raise Stopped

    def _over(self, attempt: NetAttempt, outcome: str, hangs: bool = False) -> None:
        """Give back what the attempt holds, once: one that `hangs` is given up before its thread ends."""
        claim = attempt.running.claim
        with self._lock:
            is_first, attempt.is_over = not attempt.is_over, True
            if is_first:
                self.abandoned += hangs
            elif not hangs:
                self.abandoned -= 1  # the call that hung has come back
        if not is_first:
            discard(attempt.running, self.context)
            return
        try:
            close_attempt(attempt.running, outcome, self.context)
        except Exception:
            log.exception("attempt_not_closed")
        self.leases.remove(claim)
        self.context.running.remove(attempt.running)
        self.context.presence.step_ids.remove(claim.step.step_id)
        self.attempts.remove(attempt)
        self.give_place_back()

    def _watch(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            for attempt in list(self.attempts):
                try:
                    self._check_time(attempt)
                except Exception:
                    log.exception("time_limit_not_kept")

    def _check_time(self, attempt: NetAttempt) -> None:
        """End an attempt that is over its time. One that hangs in a call is left behind: its step is given up, and
        whatever it still does matches no row."""
        running = attempt.running
        over = time.perf_counter() - running.begun - attempt.kind.time_limit
        if attempt.is_over or over <= 0:
            return
        if not running.attempt.out_of_time:
            running.attempt.out_of_time = True
            running.attempt.stop()
        if over > CHECK_POINT_SECONDS:
            error = TimeLimitExceeded(f"it took longer than {attempt.kind.time_limit:g} s")
            self._over(attempt, end_attempt(running.claim, running.attempt, error, self.context), hangs=True)
