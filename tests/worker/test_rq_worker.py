"""What the worker does with whatever stands in Redis."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from rq import Queue, Worker

from core.config import Settings
from core.queue import SERIALIZER, StepQueue
from worker.rq_worker import StepWorker


@pytest.fixture
def connection(settings: Settings) -> Iterator[Redis]:
    with Redis(port=settings.redis_port) as connection:
        yield connection


def answered(connection: Redis) -> list[str]:
    """The steps that a worker answers until its queue is empty."""
    steps: list[str] = []
    StepWorker("cpu", connection, lambda step_id: steps.append(step_id) is None).work(burst=True)
    return steps


def test_a_bell_is_answered_and_leaves_nothing_in_redis(connection: Redis, settings: Settings) -> None:
    queue = StepQueue(settings)
    for step_id in ("s1", "s2"):
        queue.wake(step_id, "cpu")
    queue.close()
    assert answered(connection) == ["s1", "s2"]
    assert connection.keys("rq:job:*") == []
    assert connection.lrange(Queue("cpu", connection=connection).intermediate_queue_key, 0, -1) == []


def test_a_job_that_names_another_function_is_refused(connection: Redis, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    queue = Queue("cpu", connection=connection, serializer=SERIALIZER)
    queue.enqueue_call("os.system", args=(f"touch {canary}",))
    queue.enqueue_call("worker.runner.run_step", args=("s1", "s2"))
    queue.enqueue_call("worker.runner.run_step", args=({"a": 1},))
    assert answered(connection) == []
    assert not canary.exists()
    assert connection.keys("rq:job:*") == []


@pytest.mark.parametrize("data", [b"", b"junk", b"[]", b"null", json.dumps(["os.system", None, ["id"], {}]).encode()])
def test_a_raw_write_to_redis_is_not_executed(connection: Redis, data: bytes) -> None:
    import zlib

    stamp = "2026-01-01T00:00:00.000000Z"
    job = {"data": zlib.compress(data), "created_at": stamp, "origin": "cpu", "success_callback_name": "os.getcwd"}
    connection.hset("rq:job:evil", mapping=job)
    connection.rpush("rq:queue:cpu", "evil")
    assert answered(connection) == []


def test_rq_sees_the_worker_while_it_works(connection: Redis, settings: Settings) -> None:
    queue = StepQueue(settings)
    queue.wake("s1", "cpu")
    queue.close()
    counts: list[int] = []
    StepWorker("cpu", connection, lambda _: not counts.append(Worker.count(connection=connection))).work(burst=True)
    assert counts == [1]


def test_rq_sees_the_worker_again_after_redis_was_wiped(connection: Redis) -> None:
    worker = StepWorker("cpu", connection, lambda _: True)
    worker.register_birth()
    connection.flushall()
    assert Worker.all(connection=connection) == []
    worker.heartbeat()
    (seen,) = Worker.all(connection=connection)
    assert (seen.name, seen.queue_names()) == (worker.name, ["cpu"])


def test_a_worker_that_has_had_enough_leaves_the_rest_of_its_queue(connection: Redis, settings: Settings) -> None:
    queue = StepQueue(settings)
    for step_id in ("s1", "s2"):
        queue.wake(step_id, "cpu")
    worker = StepWorker("cpu", connection, lambda _: False)
    worker.work(burst=True)
    assert worker.stopping
    assert queue.rung_for("cpu") == {"s2"}
    queue.close()


def test_what_a_dead_worker_left_in_redis_is_cleared(connection: Redis) -> None:
    connection.rpush("rq:queue:cpu:intermediate", "s1")
    connection.sadd("rq:workers", "rq:worker:dead")
    connection.sadd("rq:workers:cpu", "rq:worker:dead")
    assert answered(connection) == []
    assert not connection.exists("rq:queue:cpu:intermediate")
    assert Worker.count(connection=connection) == 0


def test_of_a_huge_job_nothing_is_read(connection: Redis) -> None:
    said = json.dumps(["worker.runner.run_step", None, ["s1"], {}])
    for number, blanks in enumerate((0, 20_000)):
        connection.hset(f"rq:job:{number}", mapping={"data": said + " " * blanks})
        connection.rpush("rq:queue:cpu", str(number))
    assert answered(connection) == ["s1"], "the small one"
