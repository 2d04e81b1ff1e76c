"""What watchers are told, on every database: the same as whoever asks for the status."""

from core.ledger.moves import Ledger
from core.ledger.snapshots import RunningStep
from core.status import Status
from core.task import ErrorInfo, NewStep, progress_of
from tests.conftest import artifacts_at, new_task


def test_a_snapshot_says_of_several_tasks_what_their_status_says(ledger: Ledger) -> None:
    both = [NewStep("clip", "cpu", work=3.0), NewStep("join", "cpu", needs=("0",))]
    waiting, running = new_task(), new_task(steps=both)
    ledger.create(waiting)
    ((first, _),) = ledger.create(running)
    claim = ledger.claim(first, "w1", 60)
    assert claim
    ledger.renew(claim, 60, 50, "render")
    found = ledger.snapshots([waiting.task_id, running.task_id, "0" * 32])
    assert set(found) == {waiting.task_id, running.task_id}
    for task_id, snapshot in found.items():
        task, steps = ledger.task_with_steps(task_id)
        assert (snapshot.task_id, snapshot.owner, snapshot.status) == (task_id, task.owner, task.status)
        assert (snapshot.progress, snapshot.steps) == (progress_of(steps), len(steps))
    assert found[running.task_id].running == RunningStep("clip", "render", 0, 1)
    assert found[waiting.task_id].running is None


def test_a_snapshot_has_every_move_of_its_task_in_order(ledger: Ledger) -> None:
    task, other = new_task(steps=[NewStep("clip", "cpu"), NewStep("join", "cpu", needs=("0",))]), new_task()
    ((first, _),) = ledger.create(task)
    ledger.create(other)
    for step in (first, None):
        step_id = step or ledger.task_with_steps(task.task_id)[1][1].step_id
        claim = ledger.claim(step_id, "w1", 60)
        assert claim
        ledger.finish(claim, artifacts_at(video="v"), {}, {})
    snapshot = ledger.snapshots([task.task_id, other.task_id])[task.task_id]
    assert [move.status for move in snapshot.moves] == [Status.QUEUED, Status.STARTED, Status.FINISHED]
    assert [move.event_id for move in snapshot.moves] == sorted({move.event_id for move in snapshot.moves})
    assert (snapshot.progress, snapshot.has_result, snapshot.error) == (100, True, None)
    before = snapshot.at(snapshot.moves[1])
    assert (before.status, before.has_result, before.progress) == (Status.STARTED, False, 0)
    assert snapshot.at(snapshot.moves[-1]) == snapshot


def test_a_snapshot_says_why_a_task_failed_and_whether_its_video_is_gone(ledger: Ledger) -> None:
    failed, deleted = new_task(), new_task()
    claims = [ledger.claim(ledger.create(task)[0].step_id, "w1", 60) for task in (failed, deleted)]
    assert claims[0]
    assert claims[1]
    ledger.fail(claims[0], ErrorInfo("engine_failed", "it broke"))
    ledger.finish(claims[1], artifacts_at(video="v"), {}, {})
    ledger.mark_expired(deleted.task_id)
    found = ledger.snapshots([failed.task_id, deleted.task_id])
    assert found[failed.task_id].error == ErrorInfo("engine_failed", "it broke")
    assert (found[deleted.task_id].status, found[deleted.task_id].has_result) == (Status.FINISHED, False)
