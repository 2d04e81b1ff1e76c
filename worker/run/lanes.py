"""How many steps a worker does at a time, by its queue: one on a GPU, as many as it has cores, or a hundred that wait
for other people's servers (worker/run/net_lane.py)."""

import contextvars
import os
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial

import structlog

from core.errors import Unavailable
from core.plan.steps import kinds_beside
from core.task import Claim
from worker.run.runner import STEP_KINDS, WorkerContext, peek, preference, reason_to_leave, run_claim

LOOK_SECONDS = 0.5

log = structlog.get_logger(__name__)


class Lane:
    """Does one step at a time, in the thread that calls; on a GPU it is finalized beside the next one."""

    drains_at_close = False
    """What runs when the worker leaves by itself is given back after SHUTDOWN_GRACE: it may wait for minutes."""

    def __init__(self, context: WorkerContext) -> None:
        self.context = context
        self.closing = False
        """Nothing is begun any more."""

    def run_next(self) -> None:
        """Claim the step whose turn it is, if one waits, and do it; its finalize stage may still run when this returns.
        Raises nothing: its end is in the ledger or the log."""
        claim = self.claim()
        if claim:
            run_claim(claim, self.context)
            self.context.steps_done += 1

    def known_kinds(self) -> frozenset[str]:
        """Return the kinds of step that this worker can do: a newer version may have others."""
        return frozenset(STEP_KINDS)

    def free_kinds(self) -> frozenset[str]:
        """Return those of which it can begin one now."""
        return self.known_kinds()

    def claim(self) -> Claim | None:
        """Return the claim of the step whose turn it is, of those that can begin now; None if none waits, the ledger is
        away, or this lane closes."""
        if self.closing:
            return None
        context, presence = self.context, self.context.presence
        try:
            return context.ledger.claim_next(
                presence.queue,
                presence.worker_id,
                context.settings.lease_seconds,
                *preference(context),
                kinds=self.free_kinds(),
            )
        except Unavailable as error:
            log.warning("step_not_claimed", reason=error.message)
        except Exception:
            log.exception("step_not_claimed")
        return None

    def reason_to_leave(self) -> str | None:
        """Return why this process should make room for a fresh one; None: it can go on."""
        return reason_to_leave(self.context)

    def close(self) -> None:
        """Wait until no attempt runs."""
        self.context.finalizer.wait()


class ThreadsLane(Lane):
    """Does several steps at a time, each in a thread of its own."""

    def __init__(self, context: WorkerContext, at_once: int) -> None:
        super().__init__(context)
        self._free = threading.Semaphore(at_once)
        self._one_ended = threading.Event()

    def run_next(self) -> None:
        """Claim the step whose turn it is, if one waits, and begin it. Waits if as many run as may; raises nothing."""
        if not self._free.acquire(blocking=False):
            self.one_waits(self.known_kinds(), wakes=True)
            self._free.acquire()
        claim = self.claim_when_free()
        if claim is None:
            self._free.release()
        else:
            self.context.steps_done += 1
            self.begin(claim)

    def claim_when_free(self) -> Claim | None:
        """Return the claim of the next step that can begin now; waits while some wait that cannot yet."""
        is_free = self.free_kinds() == self.known_kinds()  # before the claim: what ends after it makes room for another
        claim, wakes = self.claim(), True
        while claim is None and not (is_free or self.closing) and self.one_waits(self.known_kinds(), wakes):
            wakes = False
            self._one_ended.wait(LOOK_SECONDS)
            self._one_ended.clear()
            is_free = self.free_kinds() == self.known_kinds()
            if self.one_waits(self.free_kinds()):
                claim = self.claim()
        return claim

    def one_waits(self, kinds: Collection[str], wakes: bool = False) -> bool:
        """Return whether a step of these kinds waits, as far as is known. With `wakes` another worker is woken for it,
        since this one has taken its wake-up and cannot begin it yet."""
        context = self.context
        try:
            found = peek(context, kinds)
            if found and wakes:
                context.queue.wake(found[0].step_id, context.presence.queue)
        except Unavailable:  # the keeper wakes one later
            return True
        except Exception:
            log.exception("queue_not_looked_at")
            return True
        return found is not None

    def start(self, work: Callable[[], None], claim: Claim, undo: Callable[[], None]) -> None:
        """Do `work` in a thread with this one's context for its log lines. If the system gives no more threads, the
        step is given back once `undo` has run."""
        name, run = f"step-{claim.step.step_id}", partial(contextvars.copy_context().run, work)
        try:
            threading.Thread(target=run, name=name, daemon=True).start()
        except RuntimeError as error:
            log.error("step_not_begun", step_id=claim.step.step_id, reason=str(error))
            undo()
            with suppress(Unavailable):  # its lease runs out
                self.context.ledger.give_back(claim)

    def begin(self, claim: Claim) -> None:
        """Do it in a thread, which calls `give_place_back` at the end."""
        raise NotImplementedError

    def give_place_back(self) -> None:
        self._one_ended.set()
        self._free.release()


class CpuLane(ThreadsLane):
    """Does as many steps at a time as there are cores: one that uses all of them, and beside it those that use one."""

    def __init__(self, context: WorkerContext, at_once: int | None = None) -> None:
        super().__init__(context, at_once or steps_at_once("cpu"))
        self._running: list[Claim] = []

    def free_kinds(self) -> frozenset[str]:
        return kinds_beside([claim.step.kind for claim in list(self._running)], self.known_kinds())

    def begin(self, claim: Claim) -> None:
        self._running.append(claim)
        self.start(partial(self._work, claim), claim, partial(self._over, claim))

    def reason_to_leave(self) -> str | None:
        """Return why this process should make room for a fresh one. What it holds says nothing while several run."""
        return reason_to_leave(self.context, looks_at_memory=len(self._running) <= 1)

    def close(self) -> None:
        while self._running:
            time.sleep(LOOK_SECONDS)
        super().close()

    def _work(self, claim: Claim) -> None:
        try:
            run_claim(claim, self.context)
        finally:
            self._over(claim)

    def _over(self, claim: Claim) -> None:
        self._running.remove(claim)
        self.give_place_back()


def steps_at_once(queue: str) -> int:
    """Return how many steps a worker of this queue does at a time here."""
    return {"cpu": len(os.sched_getaffinity(0)), "net": 100}.get(queue, 1)
