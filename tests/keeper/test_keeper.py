from collections.abc import Iterator
from dataclasses import replace

import pytest

from core.config.settings import Settings
from core.db.tables import tasks
from core.errors import ArtifactNotFound, LedgerUnavailable, StorageUnavailable, TaskNotFound
from core.ids import new_id
from core.ledger.moves import Ledger
from core.queue import StepQueue
from core.status import Status
from core.storage import Storage, artifact_key, input_key
from core.task import HeldLease
from harness.servers import free_port
from keeper.main import Keeper
from tests.conftest import new_task


@pytest.fixture
def keeper(settings: Settings, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Iterator[Keeper]:
    monkeypatch.setattr("keeper.main.WAKE_AFTER_SECONDS", 0.0)
    monkeypatch.setattr("keeper.leases.SILENCE_SECONDS", 0.0)
    monkeypatch.setattr("core.ledger.retries.RETRY_PAUSES", (0.0,))
    queue = StepQueue(settings)
    yield Keeper(settings, ledger, Storage(settings.resolved_storage_url), queue)
    queue.close()


def test_a_step_that_nobody_rang_for_is_woken_once(keeper: Keeper) -> None:
    ((step_id, _),) = keeper.ledger.create(new_task())
    keeper.tick()
    keeper.tick()
    assert keeper.queue.redis.lrange("rq:queue:cpu", 0, -1) == [step_id.encode()]


@pytest.mark.parametrize(
    "junk", [b"\xff\xfe", b"", b"evil", b"a" * 1_000_000, b"\x80\x04\x95pickle"], ids=lambda junk: repr(junk[:12])
)
def test_wake_ups_among_what_is_none_are_sent_anew(keeper: Keeper, junk: bytes) -> None:
    ((step_id, _),) = keeper.ledger.create(new_task())
    keeper.queue.redis.rpush("rq:queue:cpu", *[junk] * 10)
    keeper.tick()
    assert keeper.queue.redis.lrange("rq:queue:cpu", 0, -1) == [step_id.encode()]


def test_a_queue_that_is_no_list_is_one_again(keeper: Keeper) -> None:
    ((step_id, _),) = keeper.ledger.create(new_task())
    keeper.queue.redis.set("rq:queue:cpu", "no list")
    keeper.queue.redis.set("rq:queues", "no set")
    keeper.tick()
    assert keeper.queue.redis.lrange("rq:queue:cpu", 0, -1) == [step_id.encode()]
    assert keeper.queue.redis.smembers("rq:queues") == {b"rq:queue:cpu"}


def test_a_queue_with_megabytes_in_it_is_not_read(keeper: Keeper) -> None:
    ((step_id, _),) = keeper.ledger.create(new_task())
    keeper.queue.redis.rpush("rq:queue:cpu", *[bytes(1_000_000)] * 50)
    keeper.queue.redis.config_resetstat()
    keeper.tick()
    assert keeper.queue.redis.lrange("rq:queue:cpu", 0, -1) == [step_id.encode()]
    assert keeper.queue.redis.info("stats")["total_net_output_bytes"] < 100_000


def test_a_step_whose_worker_died_is_queued_and_woken_again(keeper: Keeper) -> None:
    ((step_id, _),) = keeper.ledger.create(new_task())
    keeper.ledger.claim(step_id, "w1", lease_seconds=-1)
    keeper.tick()
    keeper.tick()
    assert keeper.queue.queued_ids("cpu") == {step_id}
    assert keeper.ledger.claim(step_id, "w2", 60) is not None


def test_a_step_that_runs_is_left_alone(keeper: Keeper) -> None:
    ((step_id, _),) = keeper.ledger.create(new_task())
    keeper.ledger.claim(step_id, "w1", 60)
    keeper.tick()
    assert keeper.queue.queued_ids("cpu") == set()


def test_the_bytes_of_an_old_task_are_deleted_and_its_row_stays(keeper: Keeper) -> None:
    keeper.settings = keeper.settings.model_copy(update={"result_ttl": -1.0})
    keeper.ledger.create(new := new_task())
    keeper.ledger.create(running := new_task())
    keeper.ledger.cancel(new.task_id)
    for task in (new, running):
        keeper.storage.put(input_key(task.task_id, "picture"), b"picture")
    keeper.tidy()
    with pytest.raises(ArtifactNotFound):
        keeper.storage.read(input_key(new.task_id, "picture"))
    assert keeper.storage.read(input_key(running.task_id, "picture")) == b"picture"
    assert keeper.ledger.task(new.task_id).expired_at is not None
    assert keeper.ledger.task(new.task_id).status == Status.CANCELED


def test_a_duty_that_fails_does_not_hold_up_the_others(keeper: Keeper, settings: Settings) -> None:
    ((step_id, _),) = keeper.ledger.create(new_task())
    keeper.ledger.claim(step_id, "w1", lease_seconds=-1)
    away = StepQueue(settings.model_copy(update={"redis_port": free_port()}))
    keeper.queue, there = away, keeper.queue
    keeper.tick()
    assert keeper.ledger.claim(step_id, "w2", 60) is not None, "taken over, though Redis was away"
    keeper.queue = there
    away.close()


def test_a_ledger_that_knows_nothing_costs_no_result(keeper: Keeper) -> None:
    unknown = "1".rjust(32, "0")
    keeper.storage.put(input_key(unknown, "picture"), b"picture")
    keeper.storage.put(artifact_key(unknown, "s", 1, "video.mp4"), b"video")
    keeper.tidy()
    assert keeper.storage.read(input_key(unknown, "picture")) == b"picture"
    assert keeper.storage.read(artifact_key(unknown, "s", 1, "video.mp4")) == b"video"


def test_a_picture_whose_task_was_never_recorded_is_swept_after_an_hour(keeper: Keeper) -> None:
    keeper.ledger.create(recorded := replace(new_task(), task_id="0" * 32))
    orphan, fresh = "1".rjust(32, "0"), new_id()
    for task_id in (recorded.task_id, orphan, fresh):
        keeper.storage.put(input_key(task_id, "picture"), b"picture")
    keeper.storage.put(f"tasks/{'2'.rjust(32, '0')}/input", b"picture, as older versions keep it")
    keeper.tidy()
    assert set(keeper.storage.task_ids()) == {recorded.task_id, fresh}


def test_what_was_stored_too_late_for_a_deleted_task_is_deleted(keeper: Keeper) -> None:
    kept, deleted = new_task(), new_task()
    for task in (kept, deleted):
        ((step_id, _),) = keeper.ledger.create(task)
        claim = keeper.ledger.claim(step_id, "w", 60)
        assert claim
        keeper.ledger.finish(claim, {}, {}, {})
    keeper.ledger.mark_expired(deleted.task_id)
    for task in (kept, deleted):
        keeper.storage.put(artifact_key(task.task_id, "s", 1, "video.mp4"), b"video")
    keeper.tidy()
    assert list(keeper.storage.task_ids()) == [kept.task_id]


def test_a_task_is_expired_only_once_its_files_are_deleted(keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    keeper.settings = keeper.settings.model_copy(update={"result_ttl": -1.0})
    keeper.ledger.create(new := new_task())
    keeper.ledger.cancel(new.task_id)
    keeper.storage.put(input_key(new.task_id, "picture"), b"picture")

    def away(_: str) -> None:
        raise StorageUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(keeper.storage, "delete_task", away)
        keeper.tidy()
    assert keeper.ledger.task(new.task_id).expired_at is None
    keeper.tidy()
    assert keeper.ledger.task(new.task_id).expired_at is not None
    assert list(keeper.storage.task_ids()) == []


def test_what_waited_longest_is_rung_for_first(keeper: Keeper) -> None:
    steps = [step.step_id for _ in range(3) for step in keeper.ledger.create(new_task())]
    keeper.tick()
    assert [entry.decode() for entry in keeper.queue.redis.lrange("rq:queue:cpu", 0, -1)] == steps


def test_a_duty_that_breaks_does_not_hold_up_the_others(keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(keeper.ledger, "held_leases", broken)
    ((step_id, _),) = keeper.ledger.create(new_task())
    keeper.tick()
    assert keeper.queue.queued_ids("cpu") == {step_id}


def test_a_step_whose_row_is_held_does_not_hold_up_the_others(keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [step.step_id for _ in range(2) for step in keeper.ledger.create(new_task())]
    for step_id in steps:
        keeper.ledger.claim(step_id, "w1", lease_seconds=-1)
    held, taken = [], keeper.ledger.take_over

    def take_over(lease: HeldLease, max_attempts: int) -> bool:
        if not held:
            held.append(lease.step_id)
            raise LedgerUnavailable("somebody holds its row")
        return taken(lease, max_attempts)

    monkeypatch.setattr(keeper.ledger, "take_over", take_over)
    keeper.take_over()
    assert [lease.step_id for lease in keeper.ledger.held_leases()] == held


def test_as_many_wake_ups_are_there_as_steps_are_ready(keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that is woken for one step may claim another: what counts is how many there are."""
    monkeypatch.setattr("keeper.main.WAKE_AFTER_SECONDS", 0.0)
    ids = [keeper.ledger.create(new_task())[0].step_id for _ in range(4)]
    for step_id in ids:
        keeper.queue.wake(step_id, "cpu")
    keeper.queue.remove(ids[1])  # its wake-up was used for the first one
    assert keeper.ledger.claim_next("cpu", "w", 60) is not None
    keeper.wake()
    assert keeper.queue.queued_ids("cpu") == {ids[0], ids[2], ids[3]}
    keeper.queue.remove(ids[2])
    keeper.queue.remove(ids[3])
    keeper.wake()
    assert len(keeper.queue.queued_ids("cpu")) == 3


def test_an_expired_task_is_forgotten_after_a_second_time(keeper: Keeper) -> None:
    keeper.settings = keeper.settings.model_copy(update={"result_ttl": -1.0})
    keeper.ledger.create(new := new_task())
    keeper.ledger.cancel(new.task_id)
    keeper.tidy()
    assert keeper.ledger.task(new.task_id).expired_at
    keeper.settings = keeper.settings.model_copy(update={"task_ttl": -1.0})
    keeper.tidy()
    with pytest.raises(TaskNotFound):
        keeper.ledger.task(new.task_id)


def age(keeper: Keeper, days: float) -> None:
    """Let all tasks have ended so long ago."""
    with keeper.ledger.database.begin() as tx:
        tx.execute(tasks.update().values(finished_at=tasks.c.finished_at - days * 24 * 3600))


def test_tasks_beyond_the_bound_are_forgotten_with_their_files(keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keeper.main.FORGOTTEN_AT_ONCE", 2)
    keeper.settings = keeper.settings.model_copy(update={"max_tasks_per_key": 1})
    owner = keeper.ledger.keys.create("ann")[0].key_id
    made = [replace(new_task(), owner=owner, stored_bytes=10) for _ in range(6)]
    for task in made:
        keeper.ledger.create(task)
        keeper.ledger.cancel(task.task_id)
        keeper.storage.put(input_key(task.task_id, "picture"), b"picture")
    age(keeper, days=2)
    keeper.tidy()
    assert [task.task_id for task in keeper.ledger.tasks(limit=9)] == [made[-1].task_id]
    assert list(keeper.storage.task_ids()) == [made[-1].task_id]
    assert keeper.ledger.keys.all()[0].stored_bytes == 10


def test_without_a_bound_no_task_is_too_many(keeper: Keeper) -> None:
    keeper.settings = keeper.settings.model_copy(update={"max_tasks_per_key": 0})
    keeper.ledger.create(new := new_task())
    keeper.ledger.cancel(new.task_id)
    age(keeper, days=9)
    keeper.forget_surplus()
    assert keeper.ledger.task(new.task_id)
