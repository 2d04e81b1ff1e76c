"""What the ledger forgets, and what it must not, on both databases."""

from dataclasses import replace

import pytest
import sqlalchemy as sa

from core.callbacks.deliveries import DeliveryStatus
from core.db.tables import deliveries, idempotency_keys, metadata, tasks
from core.errors import DeliveryNotFound, QuotaExceeded, TaskExists, TaskNotFound
from core.ledger.moves import Ledger
from core.task import Callback, IdempotencyKey, NewStep, NewTask, Quota
from tests.conftest import artifacts_at, new_task

DAY = 24 * 3600.0
MONTH = 30 * DAY
ALL = 1000
OF_A_TASK = ("tasks", "steps", "needs", "attempts", "artifacts", "inputs", "events", "idempotency_keys", "deliveries")


@pytest.fixture
def owner(ledger: Ledger) -> str:
    return ledger.keys.create("ann")[0].key_id


def task_of(owner: str, callback: Callback | None = None) -> NewTask:
    steps = [NewStep("clip", "cpu", name="clip"), NewStep("join", "cpu", name="join", needs=("clip",))]
    return replace(new_task(steps=steps, callback=callback), owner=owner)


def canceled(ledger: Ledger, owner: str, days_ago: float = 0.0, **more: Callback) -> str:
    ledger.create(new := task_of(owner, **more))
    claim = ledger.claim_next("cpu", "w", 60)
    assert claim
    ledger.cancel(new.task_id)
    later(ledger, new.task_id, days_ago)
    return new.task_id


def finished(ledger: Ledger, owner: str, days_ago: float = 0.0) -> str:
    ledger.create(new := task_of(owner))
    while claim := ledger.claim_next("cpu", "w", 60):
        ledger.finish(claim, artifacts_at(video="k"), {}, {})
    later(ledger, new.task_id, days_ago)
    return new.task_id


def later(ledger: Ledger, task_id: str, days: float) -> None:
    """Let time go by for one task, for its idempotency keys and its callbacks."""
    times = {column: tasks.c[column] - days * DAY for column in ("created_at", "finished_at", "expired_at")}
    key = idempotency_keys.update().where(idempotency_keys.c.task_id == task_id)
    with ledger.database.begin() as tx:
        tx.execute(tasks.update().where(tasks.c.task_id == task_id).values(times))
        tx.execute(key.values(created_at=idempotency_keys.c.created_at - days * DAY))
        its = deliveries.update().where(deliveries.c.task_id == task_id)
        tx.execute(its.values(created_at=deliveries.c.created_at - days * DAY))


def is_there(ledger: Ledger, task_id: str) -> bool:
    try:
        return bool(ledger.task(task_id))
    except TaskNotFound:
        return False


def end_deliveries(ledger: Ledger) -> None:
    with ledger.database.begin() as tx:
        tx.execute(deliveries.update().values(status=DeliveryStatus.DEAD))


def surplus(ledger: Ledger, most: int) -> list[str]:
    return [task.task_id for task in ledger.surplus_tasks(most)]


def test_a_task_is_old_so_long_after_its_files_were_deleted(ledger: Ledger, owner: str) -> None:
    kept, old = canceled(ledger, owner), finished(ledger, owner)
    ledger.create(waiting := task_of(owner))
    for task_id in (kept, old, waiting.task_id):
        ledger.mark_expired(task_id)
    later(ledger, old, 31)
    later(ledger, kept, 29)
    stored = finished(ledger, owner, days_ago=31)
    assert ledger.old_tasks(MONTH, ALL) == [old]
    assert is_there(ledger, stored)


def test_nothing_of_a_forgotten_task_is_left_and_nothing_of_another_is_gone(ledger: Ledger, owner: str) -> None:
    def rows() -> dict[str, int]:
        with ledger.database.connect() as connection:
            count = sa.select(sa.func.count())
            return {name: connection.scalar(count.select_from(metadata.tables[name])) for name in OF_A_TASK}

    other = canceled(ledger, owner, callback=Callback("https://told.example/", ["task.canceled"]))
    before = rows()
    new = replace(task_of(owner, Callback("https://told.example/", ["task.finished"])))
    ledger.create(new, IdempotencyKey(owner, "once", "f"))
    while claim := ledger.claim_next("cpu", "w", 60):
        ledger.finish(claim, artifacts_at(video="k"), {}, {})
    assert all(count > before[name] for name, count in rows().items())
    end_deliveries(ledger)
    assert ledger.forget([new.task_id]) == 1
    assert rows() == before
    assert is_there(ledger, other)
    assert ledger.task_made_with(IdempotencyKey(owner, "once", "f")) is None


def test_a_task_that_has_not_ended_is_not_forgotten(ledger: Ledger, owner: str) -> None:
    ledger.create(new := task_of(owner))
    assert ledger.forget([new.task_id]) == 0
    assert is_there(ledger, new.task_id)


def test_a_task_is_kept_until_its_callbacks_are_told_or_given_up(ledger: Ledger, owner: str) -> None:
    task_id = canceled(ledger, owner, callback=Callback("https://told.example/", ["task.canceled"]))
    ledger.mark_expired(task_id)
    later(ledger, task_id, 31)
    assert (ledger.old_tasks(MONTH, ALL), surplus(ledger, 0)) == ([], [])
    assert ledger.forget([task_id]) == 0
    end_deliveries(ledger)
    assert (ledger.old_tasks(MONTH, ALL), surplus(ledger, 0)) == ([task_id], [task_id])
    assert ledger.forget([task_id]) == 1


def test_whoever_has_a_callback_told_again_and_again_does_not_keep_its_task(ledger: Ledger, owner: str) -> None:
    task_id = canceled(ledger, owner, 3, callback=Callback("https://told.example/", ["task.canceled"]))
    (delivery,) = ledger.deliveries.page(owner, status=None, task_id=task_id, after=None, limit=9)
    for _ in range(2):
        assert ledger.deliveries.redeliver(owner, delivery.delivery_id).status == DeliveryStatus.PENDING
        assert surplus(ledger, 0) == [], "its first schedule takes three days and a half"
    later(ledger, task_id, 1)
    assert ledger.deliveries.redeliver(owner, delivery.delivery_id).status == DeliveryStatus.PENDING
    assert surplus(ledger, 0) == [task_id]
    assert ledger.forget([task_id]) == 1
    with pytest.raises(DeliveryNotFound):
        ledger.deliveries.redeliver(owner, delivery.delivery_id)


def test_of_too_many_tasks_of_a_key_the_oldest_go_that_have_no_video(ledger: Ledger, owner: str) -> None:
    other = ledger.keys.create("bob")[0].key_id
    video = finished(ledger, owner, days_ago=3)
    gone = finished(ledger, owner, days_ago=3)
    ledger.mark_expired(gone)
    failed, newest = canceled(ledger, owner, days_ago=2), canceled(ledger, owner, days_ago=2)
    ledger.create(waiting := task_of(owner))
    others = [canceled(ledger, other, days_ago=2) for _ in range(2)]
    assert surplus(ledger, 2) == [gone, failed]
    assert [task.is_stored for task in ledger.surplus_tasks(2)] == [False, True]
    assert surplus(ledger, 5) == []
    assert set(surplus(ledger, 0)) == {gone, failed, newest, *others}
    assert {video, waiting.task_id}.isdisjoint(surplus(ledger, 0))


def test_too_many_tasks_without_a_key_go_too(ledger: Ledger) -> None:
    first, _ = canceled(ledger, "", days_ago=2), canceled(ledger, "", days_ago=2)
    assert surplus(ledger, 1) == [first]


def test_no_task_goes_before_its_key_has_kept_its_promise_and_the_hour_has_counted_it(
    ledger: Ledger, owner: str
) -> None:
    ledger.create(new := task_of(owner), key := IdempotencyKey(owner, "once", "f"))
    ledger.cancel(new.task_id)
    later(ledger, new.task_id, 0.99)
    ledger.forget_old_keys()
    assert surplus(ledger, 0) == []
    with pytest.raises(TaskExists):
        ledger.create(task_of(owner), key)
    later(ledger, new.task_id, 0.02)
    assert surplus(ledger, 0) == [new.task_id]


def test_canceled_failed_and_deleted_tasks_count_in_the_hour(ledger: Ledger, owner: str) -> None:
    quota = Quota(tasks_per_hour=3, waiting=0, stored_bytes=0)
    canceled(ledger, owner)
    ledger.mark_deleted(canceled(ledger, owner))
    finished(ledger, owner)
    with pytest.raises(QuotaExceeded, match="3 tasks an hour"):
        ledger.create(task_of(owner), quota=quota)


def test_old_idempotency_keys_are_dropped_however_many_there_are(ledger: Ledger, owner: str) -> None:
    old, new = canceled(ledger, owner), canceled(ledger, owner)
    keys = [{"owner": owner, "key": str(n), "fingerprint": "f", "task_id": old, "created_at": 0.0} for n in range(1201)]
    kept = {"owner": owner, "key": "new", "fingerprint": "f", "task_id": new, "created_at": 9e9}
    with ledger.database.begin() as tx:
        tx.execute(idempotency_keys.insert(), [*keys, kept])
    ledger.forget_old_keys()
    with ledger.database.connect() as connection:
        assert connection.execute(sa.select(idempotency_keys.c.key)).scalars().all() == ["new"]


def test_what_is_forgotten_with_a_task_is_found_by_an_index() -> None:
    """Else each batch would have all of a table looked at."""
    for table in metadata.sorted_tables:
        indexed = {next(iter(index.columns)) for index in table.indexes} | set(list(table.primary_key)[:1])
        assert {key.parent for key in table.foreign_keys} <= indexed, table
