import pytest
from redis import Redis
from rq import Queue, Worker

from core.config.settings import Settings
from core.errors import QueueUnavailable
from core.queue import SERIALIZER, StepQueue
from harness.servers import free_port


@pytest.fixture
def queue(settings: Settings):
    queue = StepQueue(settings)
    yield queue
    queue.close()


def test_a_bell_stands_for_its_step_until_it_is_forgotten(queue: StepQueue) -> None:
    queue.wake("s1", "cpu")
    queue.wake("s2", "cpu")
    assert queue.queued_ids("cpu") == {"s1", "s2"}
    assert queue.queued_ids("gpu") == set()
    queue.remove("s1")
    queue.remove("s1")
    assert queue.queued_ids("cpu") == {"s2"}


def test_junk_in_redis_hides_no_bell(queue: StepQueue) -> None:
    queue.redis.rpush("rq:queue:cpu", b"\xff\xfe")
    queue.redis.hset("rq:job:s1", mapping={"data": b"junk", "status": "odd", "created_at": "now"})
    queue.redis.rpush("rq:queue:cpu", "s1")
    queue.wake("s2", "cpu")
    assert queue.queued_ids("cpu") >= {"s1", "s2"}
    queue.remove("s1")
    assert "s1" not in queue.queued_ids("cpu")
    assert not queue.redis.exists("rq:job:s1")


def test_rqs_own_tools_see_the_queue(queue: StepQueue, settings: Settings) -> None:
    queue.wake("s1", "cpu")
    with Redis(port=settings.redis_port) as connection:
        assert len(Queue("cpu", connection=connection, serializer=SERIALIZER)) == 1
        assert Worker.count(connection=connection) == 0


def test_a_redis_that_is_away_is_said_to_be_within_seconds() -> None:
    queue = StepQueue(Settings(_env_file=None, redis_port=free_port()))
    for call in (
        queue.ping,
        lambda: queue.wake("s", "cpu"),
        lambda: queue.queued_ids("cpu"),
        lambda: queue.remove("s"),
    ):
        with pytest.raises(QueueUnavailable):
            call()
    queue.close()
