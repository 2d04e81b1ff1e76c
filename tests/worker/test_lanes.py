"""How many steps a worker of the lane cpu does at a time: one that uses all cores, and others beside it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from core.status import Status
from core.task import NewStep
from harness.servers import wait_until
from tests.conftest import new_task
from worker.attempt import Stopped
from worker.run.lanes import CpuLane
from worker.run.runner import STEP_KINDS, WorkerContext
from worker.steps.base import Made, StepHandler

OPEN: dict[str, threading.Event] = {}
"""By the step's name: whether it may end."""


class Waits(StepHandler):
    """A step that ends once it may."""

    def finish(self) -> Made:
        while not OPEN[self.claim.step.name].wait(0.01):
            self.attempt.check()
        return Made([], {})


@pytest.fixture
def lane(context: WorkerContext, monkeypatch: pytest.MonkeyPatch) -> Iterator[CpuLane]:
    OPEN.clear()
    for kind in ("clip", "join"):
        monkeypatch.setitem(STEP_KINDS, kind, Waits)
    lane = CpuLane(context, at_once=3)
    yield lane
    lane.closing = True
    for event in OPEN.values():
        event.set()
    lane.close()


def add(lane: CpuLane, *names: str) -> str:
    """Record a task with these steps, "clip-1" being a clip, and return its id."""
    OPEN.update((name, threading.Event()) for name in names)
    steps = [NewStep(name.partition("-")[0], "cpu", name=name) for name in names]
    task = new_task(steps=steps)
    lane.context.ledger.create(task)
    return task.task_id


def statuses(lane: CpuLane, task_id: str) -> dict[str, str]:
    return {step.name: str(step.status) for step in lane.context.ledger.task_with_steps(task_id)[1]}


@contextmanager
def asked_in_a_thread(lane: CpuLane) -> Iterator[threading.Thread]:
    thread = threading.Thread(target=lane.run_next, daemon=True)
    thread.start()
    yield thread
    thread.join(5)
    assert not thread.is_alive()


def test_steps_that_use_one_core_run_beside_one_that_uses_all(lane: CpuLane) -> None:
    task_id = add(lane, "clip-1", "join-1", "join-2", "join-3")
    for _ in range(3):
        lane.run_next()
    assert list(statuses(lane, task_id).values()) == ["started", "started", "started", "queued"]
    with asked_in_a_thread(lane) as asked:  # as many run as may
        asked.join(0.3)
        assert asked.is_alive()
        OPEN["join-1"].set()
    wait_until(lambda: statuses(lane, task_id)["join-3"] == "started", what="the last step's start")


def test_a_second_step_that_uses_all_cores_waits_and_one_that_does_not_goes_before_it(lane: CpuLane) -> None:
    task_id = add(lane, "clip-1", "clip-2")
    lane.run_next()
    with asked_in_a_thread(lane) as asked:
        asked.join(0.3)
        assert asked.is_alive()
        assert statuses(lane, task_id) == {"clip-1": "started", "clip-2": "queued"}
        late = add(lane, "join-1")
        wait_until(lambda: statuses(lane, late)["join-1"] == "started", what="the start of what needs one core")
    with asked_in_a_thread(lane):
        OPEN["clip-1"].set()
    wait_until(lambda: statuses(lane, task_id)["clip-2"] == "started", what="the second clip's start")


def test_a_wake_up_for_what_another_has_taken_keeps_nobody(lane: CpuLane) -> None:
    task_id = add(lane, "clip-1")
    lane.run_next()
    with asked_in_a_thread(lane):
        pass
    assert statuses(lane, task_id) == {"clip-1": "started"}


def test_a_wake_up_that_a_busy_worker_took_goes_on_to_another(lane: CpuLane) -> None:
    queue = lane.context.queue
    task_id = add(lane, "clip-1", "clip-2")
    lane.run_next()
    late = lane.context.ledger.task_with_steps(task_id)[1][1].step_id
    with asked_in_a_thread(lane):
        wait_until(lambda: queue.queued_ids("cpu") == {late}, what="another wake-up")
        OPEN["clip-1"].set()
    OPEN["clip-2"].set()
    wait_until(lambda: statuses(lane, task_id)["clip-2"] == "finished", what="the second clip's end")
    queue.remove(late)
    joins = add(lane, "join-1", "join-2", "join-3", "join-4")
    for _ in range(3):
        lane.run_next()
    with asked_in_a_thread(lane):  # as many run as may
        wait_until(lambda: len(queue.queued_ids("cpu")) == 1, what="another wake-up")
        assert queue.queued_ids("cpu") == {lane.context.ledger.task_with_steps(joins)[1][3].step_id}
        OPEN["join-1"].set()


def test_a_step_whose_thread_cannot_start_is_given_back(lane: CpuLane, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    task_id = add(lane, "clip-1")
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        lane.run_next()
    assert statuses(lane, task_id) == {"clip-1": "queued"}
    OPEN["clip-1"].set()
    lane.run_next()
    wait_until(lambda: statuses(lane, task_id)["clip-1"] == "finished", what="its end")


def test_memory_is_looked_at_between_steps(lane: CpuLane) -> None:
    lane.context.settings = lane.context.settings.model_copy(update={"worker_max_memory_mb": 1})
    add(lane, "clip-1", "join-1")
    lane.run_next()
    assert lane.reason_to_leave() is not None
    lane.run_next()
    assert lane.reason_to_leave() is None


def test_what_waits_for_all_cores_begins_as_soon_as_they_are_free(
    lane: CpuLane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.run.lanes.LOOK_SECONDS", 60.0)
    task_id = add(lane, "clip-1", "clip-2")
    lane.run_next()
    with asked_in_a_thread(lane) as asked:
        asked.join(0.3)
        OPEN["clip-1"].set()
    assert statuses(lane, task_id) == {"clip-1": "finished", "clip-2": "started"}
    monkeypatch.undo()


def test_nothing_is_begun_once_it_closes_and_what_runs_ends(lane: CpuLane) -> None:
    task_id = add(lane, "clip-1", "clip-2")
    lane.run_next()
    with asked_in_a_thread(lane) as asked:
        asked.join(0.3)
        lane.closing = True
    OPEN["clip-1"].set()
    lane.close()
    assert statuses(lane, task_id) == {"clip-1": "finished", "clip-2": "queued"}
    assert lane.context.running == []


def test_each_of_several_attempts_is_stopped_by_itself(lane: CpuLane, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: list[str] = []

    def finish(handler: Waits) -> Made:
        try:
            while True:
                handler.attempt.wait(0.01)
        except Stopped:
            stopped.append(handler.claim.step.name)
            raise

    monkeypatch.setattr(Waits, "finish", finish)
    first, second = add(lane, "join-1"), add(lane, "join-2")
    lane.run_next()
    lane.run_next()
    lane.context.ledger.cancel(first)
    wait_until(lambda: stopped == ["join-1"], what="the canceled step's stop")
    assert statuses(lane, second) == {"join-2": "started"}
    lane.context.ledger.cancel(second)
    assert lane.context.ledger.task(second).status == Status.CANCELED
