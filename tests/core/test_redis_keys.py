"""Whatever somebody else wrote under the names that Kinora shares in Redis."""

from collections.abc import Callable

import pytest
from redis import Redis

from core.config.settings import Settings
from core.queue import StepQueue
from core.redis_keys import MOST_WAKE_UPS, MOST_WORKERS, SHARED, RedisKey, delete_wrong_keys, wrong_keys

NAMES = [key.name for key in SHARED]
LISTS = [key for key in SHARED if key.type == "list"]
SETS = [key for key in SHARED if key.type == "set"]

OTHERS: dict[str, Callable[[Redis, str], object]] = {
    "string": lambda redis, name: redis.set(name, b"\xff\x00 no id"),
    "hash": lambda redis, name: redis.hset(name, "a", "b"),
    "zset": lambda redis, name: redis.zadd(name, {"a": 1}),
    "stream": lambda redis, name: redis.xadd(name, {"a": "b"}),
    "list": lambda redis, name: redis.rpush(name, "a"),
    "set": lambda redis, name: redis.sadd(name, "a"),
}


@pytest.fixture
def redis(settings: Settings):
    with Redis(port=settings.redis_port) as redis:
        yield redis


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("key", SHARED, ids=NAMES)
def test_a_shared_key_of_another_type_is_named_and_deleted(redis: Redis, key: RedisKey, other: str) -> None:
    OTHERS[other](redis, key.name)
    if other == key.type:
        assert wrong_keys(redis) == {}
    else:
        assert wrong_keys(redis) == {key.name: f"it is a {other} and not a {key.type}"}
        delete_wrong_keys(redis)
        assert not redis.exists(key.name)


@pytest.mark.parametrize("key", SHARED, ids=NAMES)
def test_one_with_too_many_entries_is_named_and_deleted(redis: Redis, key: RedisKey) -> None:
    add = redis.rpush if key.type == "list" else redis.sadd
    add(key.name, *range(key.most))
    assert wrong_keys(redis) == {}
    add(key.name, "one more")
    assert wrong_keys(redis) == {key.name: f"it has {key.most + 1} entries, of {key.most} at most"}
    delete_wrong_keys(redis)
    assert not redis.exists(key.name)


@pytest.mark.parametrize("key", [LISTS[0], SETS[0]], ids=lambda key: key.type)
def test_one_whose_few_entries_are_large_is_named_and_deleted(redis: Redis, key: RedisKey) -> None:
    add = redis.rpush if key.type == "list" else redis.sadd
    for number in range(40):
        add(key.name, str(number))
    add(key.name, bytes(20_000_000))
    assert "bytes, of 16000000 at most" in wrong_keys(redis)[key.name]
    delete_wrong_keys(redis)
    assert not redis.exists(key.name)


def test_what_kinora_writes_is_right(redis: Redis, settings: Settings) -> None:
    queue = StepQueue(settings)
    queue.wake("0" * 32, "cpu")
    assert queue.wrong_keys() == {} == queue.delete_wrong_keys()
    assert queue.queued_ids("cpu") == {"0" * 32}
    queue.close()


def test_as_many_wake_ups_fit_as_may_wait(settings: Settings) -> None:
    assert settings.max_waiting_per_queue * 10 <= MOST_WAKE_UPS
    assert MOST_WORKERS >= 1000
