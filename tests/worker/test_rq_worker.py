"""What the worker does with whatever stands in Redis."""

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis
from rq import Queue, Worker

from core.config.settings import Settings
from core.ids import new_id
from core.queue import SERIALIZER, StepQueue
from worker.run.rq_worker import StepWorker


@pytest.fixture
def connection(settings: Settings) -> Iterator[Redis]:
    with Redis(port=settings.redis_port) as connection:
        yield connection


def answered(connection: Redis) -> int:
    """How often a worker asks for a step until its queue is empty."""
    asked: list[None] = []
    StepWorker("cpu", connection, lambda: asked.append(None) is None).work(burst=True)
    return len(asked)


def test_a_wake_up_is_answered_and_leaves_nothing_in_redis(connection: Redis, settings: Settings) -> None:
    queue = StepQueue(settings)
    woken = [new_id(), new_id()]
    for step_id in woken:
        queue.wake(step_id, "cpu")
    queue.close()
    assert answered(connection) == 2
    assert connection.keys("rq:job:*") == []
    assert connection.lrange(Queue("cpu", connection=connection).intermediate_queue_key, 0, -1) == []


def test_whatever_a_job_names_its_id_alone_is_answered(connection: Redis, tmp_path: Path) -> None:
    canary, step_id = tmp_path / "canary", new_id()
    queue = Queue("cpu", connection=connection, serializer=SERIALIZER)
    queue.enqueue_call("os.system", args=(f"touch {canary}",))
    queue.enqueue_call("os.system", args=(f"touch {canary}",), job_id=step_id)
    assert answered(connection) == 1, "of the first the id is one that RQ made"
    assert not canary.exists()
    assert connection.keys("rq:job:*") == []


@pytest.mark.parametrize(
    "entry", [b"\xff\xfe", b"", b"evil", b"A" * 32, b"0" * 33, b"0" * 31 + b"\n", b"../x", b"a b", b"x" * 1_000_000]
)
def test_an_entry_that_is_no_id_of_ours_is_not_answered(connection: Redis, entry: bytes) -> None:
    connection.hset(b"rq:job:" + entry, mapping={"data": b"junk", "success_callback_name": "os.getcwd"})
    connection.rpush("rq:queue:cpu", entry)
    assert answered(connection) == 0


def test_rq_sees_the_worker_while_it_works(connection: Redis, settings: Settings) -> None:
    queue = StepQueue(settings)
    queue.wake(new_id(), "cpu")
    queue.close()
    counts: list[int] = []
    StepWorker("cpu", connection, lambda: not counts.append(Worker.count(connection=connection))).work(burst=True)
    assert counts == [1]


def test_rq_sees_the_worker_again_after_redis_was_wiped(connection: Redis) -> None:
    worker = StepWorker("cpu", connection, lambda: True)
    worker.register_birth()
    connection.flushall()
    assert Worker.all(connection=connection) == []
    worker.heartbeat()
    (seen,) = Worker.all(connection=connection)
    assert (seen.name, seen.queue_names()) == (worker.name, ["cpu"])


def test_a_worker_that_has_had_enough_leaves_the_rest_of_its_queue(connection: Redis, settings: Settings) -> None:
    queue = StepQueue(settings)
    woken = [new_id(), new_id()]
    for step_id in woken:
        queue.wake(step_id, "cpu")
    worker = StepWorker("cpu", connection, lambda: False)
    worker.work(burst=True)
    assert worker.stopping
    assert queue.queued_ids("cpu") == {woken[1]}
    queue.close()


def test_what_a_dead_worker_left_in_redis_is_cleared(connection: Redis) -> None:
    connection.rpush("rq:queue:cpu:intermediate", "s1", b"\xff")
    connection.hset("rq:job:s1", "data", "what was asked")
    connection.sadd("rq:workers", "rq:worker:dead")
    connection.sadd("rq:workers:cpu", "rq:worker:dead")
    assert answered(connection) == 0
    assert not connection.exists("rq:queue:cpu:intermediate", "rq:job:s1")
    assert Worker.count(connection=connection) == 0


def test_what_stands_in_the_place_of_the_jobs_that_were_taken_is_cleared_too(connection: Redis) -> None:
    connection.set("rq:queue:cpu:intermediate", "no list")
    assert answered(connection) == 0
    assert not connection.exists("rq:queue:cpu:intermediate")


def test_a_step_that_is_given_back_while_it_is_answered_wakes_a_worker_again(
    connection: Redis, settings: Settings
) -> None:
    queue, step_id, answers = StepQueue(settings), new_id(), []

    def answer() -> bool:
        answers.append(None)
        if len(answers) == 1:
            queue.wake(step_id, "cpu")
        return True

    queue.wake(step_id, "cpu")
    StepWorker("cpu", connection, answer).work(burst=True)
    queue.close()
    assert len(answers) == 2
    assert connection.keys("rq:job:*") == []


KEYS = ["rq:queue:cpu", "rq:queue:cpu:intermediate", "rq:queues", "rq:workers", "rq:workers:cpu", "rq:suspended"]
JUNK: dict[str, Callable[[Redis, str], object]] = {
    "a string": lambda redis, name: redis.set(name, b"\xff\xfe"),
    "a hash": lambda redis, name: redis.hset(name, "a", "b"),
    "a list of what is no text": lambda redis, name: redis.rpush(name, b"\xff\xfe", b"", b"other:key"),
    "a set of what is no text": lambda redis, name: redis.sadd(name, b"\xff\xfe", b"", b"other:key", b"rq:worker:\xff"),
    "a long list": lambda redis, name: redis.rpush(name, *range(200_000)),
    "a large set": lambda redis, name: redis.sadd(name, *range(20_000)),
    "a pickle": lambda redis, name: redis.set(name, pickle.dumps(["a"])),
}


@pytest.mark.parametrize("junk", JUNK)
@pytest.mark.parametrize("name", KEYS)
def test_whatever_stands_in_the_place_of_a_key_a_worker_begins_and_answers(
    connection: Redis, settings: Settings, caplog: pytest.LogCaptureFixture, name: str, junk: str
) -> None:
    JUNK[junk](connection, name)
    assert answered(connection) == 0
    queue = StepQueue(settings)
    queue.wake(new_id(), "cpu")
    queue.close()
    assert answered(connection) == 1
    assert "unhandled exception" not in caplog.text


def test_of_those_that_are_no_workers_none_stays(connection: Redis) -> None:
    connection.sadd("rq:workers:cpu", b"\xff", b"other:key", b"rq:worker:dead")
    connection.sadd("rq:workers", b"\xff", b"other:key", b"rq:worker:dead")
    assert answered(connection) == 0
    assert not connection.exists("rq:workers:cpu", "rq:workers")


@pytest.mark.parametrize("name", ["rq:queue:cpu", "rq:queue:cpu:intermediate"])
def test_a_key_that_somebody_writes_while_a_worker_works_ends_no_loop(
    connection: Redis, settings: Settings, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    queue, asked = StepQueue(settings), []

    def answer() -> bool:
        asked.append(None)
        if len(asked) == 1:
            connection.delete(name)
            connection.set(name, "no list")
        return True

    queue.wake(new_id(), "cpu")
    if name.endswith("intermediate"):
        queue.wake(new_id(), "cpu")
    queue.close()
    StepWorker("cpu", connection, answer).work(burst=True)
    assert "unhandled exception" not in caplog.text
    assert len(asked) == (2 if name.endswith("intermediate") else 1)
    assert not connection.exists(name)
