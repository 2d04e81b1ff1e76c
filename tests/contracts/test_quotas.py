"""What one key may use, on both databases."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from core.errors import QueueFull, QuotaExceeded
from core.ledger.moves import Ledger
from core.task import Bounds, NewStep, NewTask, Quota
from tests.conftest import new_task


@pytest.fixture
def owner(ledger: Ledger) -> str:
    return ledger.keys.create("ann")[0].key_id


def task_of(owner: str, stored_bytes: int = 0) -> NewTask:
    return replace(new_task(), owner=owner, stored_bytes=stored_bytes)


def stored(ledger: Ledger) -> int:
    return ledger.keys.all()[0].stored_bytes


def test_a_key_makes_so_many_tasks_an_hour(ledger: Ledger, owner: str) -> None:
    quota = Quota(tasks_per_hour=2, waiting=0, stored_bytes=0)
    other = ledger.keys.create("bob")[0].key_id
    for _ in range(2):
        ledger.create(task_of(owner), quota=quota)
    with pytest.raises(QuotaExceeded, match="2 tasks an hour") as refused:
        ledger.create(task_of(owner), quota=quota)
    assert 3500 < (refused.value.retry_after or 0) <= 3600
    ledger.create(task_of(other), quota=quota)
    assert len(ledger.tasks(owner=owner, status=None, after=None, limit=10)) == 2
    with ledger.database.begin() as tx:  # an hour goes by
        tx.exec_driver_sql(f"UPDATE tasks SET created_at = created_at - 3601 WHERE owner = '{owner}'")
    ledger.create(task_of(owner), quota=quota)


def test_so_many_tasks_of_a_key_wait(ledger: Ledger, owner: str) -> None:
    quota = Quota(tasks_per_hour=0, waiting=1, stored_bytes=0)
    first = task_of(owner)
    ((step_id, _),) = ledger.create(first, quota=quota)
    with pytest.raises(QuotaExceeded, match="1 tasks of this key wait"):
        ledger.create(task_of(owner), quota=quota)
    ledger.claim(step_id, "w", 60)
    ledger.create(task_of(owner), quota=quota)


def test_so_much_of_a_key_is_stored(ledger: Ledger, owner: str) -> None:
    quota = Quota(tasks_per_hour=0, waiting=0, stored_bytes=100)
    first = task_of(owner, 40)
    ((step_id, _),) = ledger.create(first, quota=quota)
    claim = ledger.claim(step_id, "w", 60)
    assert claim
    ledger.finish(claim, {}, {}, {}, stored_bytes=30)
    assert stored(ledger) == 70
    with pytest.raises(QuotaExceeded, match="delete tasks"):
        ledger.create(task_of(owner, 31), quota=quota)
    assert stored(ledger) == 70
    ledger.create(task_of(owner, 30), quota=quota)
    ledger.mark_expired(first.task_id)
    ledger.mark_expired(first.task_id)
    assert stored(ledger) == 30


def test_requests_at_the_same_time_do_not_pass_together(ledger: Ledger, owner: str) -> None:
    quota = Quota(tasks_per_hour=3, waiting=0, stored_bytes=0)

    def create(_: int) -> bool:
        try:
            ledger.create(task_of(owner), quota=quota)
        except QuotaExceeded:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(create, range(16))) == 3


def test_who_has_no_key_has_no_quota(ledger: Ledger) -> None:
    for _ in range(3):
        ledger.create(task_of("", 1000), quota=Quota(1, 1, 1))
    assert len(ledger.tasks(limit=10)) == 3


NONE, WIDE = Quota(0, 0, 0), Bounds(1000, 1000)


@pytest.mark.parametrize(
    ("bounds", "quota", "refused"),
    [
        (WIDE, Quota(tasks_per_hour=2, waiting=0, stored_bytes=0), QuotaExceeded),
        (WIDE, Quota(tasks_per_hour=0, waiting=2, stored_bytes=0), QuotaExceeded),
        (WIDE, Quota(tasks_per_hour=0, waiting=0, stored_bytes=20), QuotaExceeded),
        (Bounds(2, 1000), NONE, QueueFull),
        (Bounds(1000, 2), NONE, QueueFull),
    ],
    ids=range(5),
)
def test_what_would_be_refused_is_known_before_and_nothing_else_is(
    ledger: Ledger, owner: str, bounds: Bounds, quota: Quota, refused: type[Exception]
) -> None:
    for _ in range(2):
        ledger.check_room(owner, "cpu", bounds, quota)
        ledger.create(task_of(owner, 10), None, bounds, quota)
    with pytest.raises(refused):
        ledger.check_room(owner, "cpu", bounds, quota)
    with pytest.raises(refused):
        ledger.create(task_of(owner, 10), None, bounds, quota)
    other = ledger.keys.create("bob")[0].key_id
    if refused is QuotaExceeded:
        ledger.check_room(other, "cpu", bounds, quota)
        ledger.check_room("", "cpu", bounds, quota)
    if bounds.waiting_per_queue == 2:
        ledger.check_room(owner, "gpu", bounds, quota)


def test_a_step_whose_turn_has_not_come_takes_no_place(ledger: Ledger, owner: str) -> None:
    """Nor does the queue that it will come to refuse the task."""
    bounds = Bounds(1000, 2)
    both = [NewStep("clip", "gpu", {}), NewStep("smooth", "cpu", {}, needs=("0",))]
    for _ in range(2):
        ledger.create(replace(task_of(owner), steps=both), None, bounds)
    for _ in range(2):
        ledger.create(task_of(owner), None, bounds)
    with pytest.raises(QueueFull, match="the queue gpu"):
        ledger.create(replace(task_of(owner), steps=both), None, bounds)


def test_a_task_that_has_not_ended_does_not_expire(ledger: Ledger, owner: str) -> None:
    ledger.create(task := task_of(owner, 40))
    ledger.mark_expired(task.task_id)
    assert (ledger.task(task.task_id).expired_at, stored(ledger)) == (None, 40)
    ledger.cancel(task.task_id)
    ledger.mark_expired(task.task_id)
    assert stored(ledger) == 0


def test_what_finishes_after_its_task_was_deleted_counts_for_nothing(ledger: Ledger, owner: str) -> None:
    ((step_id, _),) = ledger.create(task := task_of(owner, 40))
    claim = ledger.claim(step_id, "w", 60)
    assert claim
    ledger.cancel(task.task_id)
    ledger.mark_expired(task.task_id)
    assert ledger.finish(claim, {}, {}, {}, stored_bytes=30) is None
    assert stored(ledger) == 0
