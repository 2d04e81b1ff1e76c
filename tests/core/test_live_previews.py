import pickle
from collections.abc import Callable

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from core.live_previews import LIFE_SECONDS, LivePreviews
from harness.servers import RedisServer, free_port


def previews_in(server: RedisServer) -> LivePreviews:
    server.client.flushall()
    return LivePreviews(server.client)


def test_the_newest_is_kept_with_a_number_that_rises(redis_server: RedisServer) -> None:
    previews = previews_in(redis_server)
    assert previews.get("a") is None
    previews.put("a", b"first")
    assert previews.get("a") == (1, b"first")
    previews.put("a", b"second")
    previews.put("b", b"another")
    assert previews.get("a") == (2, b"second")


def test_the_numbers_of_many_tasks_are_asked_for_at_once(redis_server: RedisServer) -> None:
    previews = previews_in(redis_server)
    for task_id in ("a", "b", "b"):
        previews.put(task_id, b"x")
    redis_server.client.config_resetstat()
    assert previews.numbers_of(["a", "none", "b"]) == {"a": 1, "b": 2}
    assert previews.numbers_of([]) == {}
    asked = redis_server.client.info("commandstats")
    assert asked.pop("cmdstat_getrange")["calls"] == 3
    assert [name for name in asked if not name.startswith(("cmdstat_config", "cmdstat_info"))] == []


def test_a_preview_does_not_live_long(redis_server: RedisServer) -> None:
    previews_in(redis_server).put("a", b"x")
    left = [redis_server.client.ttl(name) for name in redis_server.client.keys("*")]
    assert len(left) == 2
    assert all(0 < seconds <= LIFE_SECONDS for seconds in left)


def test_nothing_is_left_of_a_preview_that_is_forgotten(redis_server: RedisServer) -> None:
    previews = previews_in(redis_server)
    previews.put("a", b"x")
    previews.delete("a")
    assert redis_server.client.keys("*") == []


def test_a_redis_that_is_away_is_like_one_without_previews() -> None:
    with Redis(port=free_port(), retry=Retry(NoBackoff(), 0)) as nobody:
        previews = LivePreviews(nobody)
        previews.put("a", b"x")
        previews.delete("a")
        assert (previews.get("a"), previews.numbers_of(["a"])) == (None, {})


def test_what_others_wrote_there_is_no_preview(redis_server: RedisServer) -> None:
    previews = previews_in(redis_server)
    previews.put("a", b"x")
    redis_server.client.set("kinora:preview:a:number", "-1; DROP TABLE")
    assert (previews.get("a"), previews.numbers_of(["a"])) == (None, {})
    previews.put("a", b"x")  # and does no harm
    redis_server.client.delete("kinora:preview:a:number")
    redis_server.client.lpush("kinora:preview:a:number", 1)
    assert previews.numbers_of(["a"]) == {}
    redis_server.client.delete("kinora:preview:a:number")
    redis_server.client.set("kinora:preview:a:number", "9" * 5000)  # more than Python would read as a number
    assert (previews.get("a"), previews.numbers_of(["a"])) == (None, {})


JUNK: dict[str, Callable[[Redis, str], object]] = {
    "no number": lambda redis, name: redis.set(name, b"\xff\xfe"),
    "less than nothing": lambda redis, name: redis.set(name, -1_000_000),
    "the largest number": lambda redis, name: redis.set(name, 2**63 - 1),
    "more digits than are read": lambda redis, name: redis.set(name, "9" * 19),
    "a pickle": lambda redis, name: redis.set(name, pickle.dumps(1)),
    "a list": lambda redis, name: redis.rpush(name, 1),
    "a hash": lambda redis, name: redis.hset(name, "a", "b"),
}


@pytest.mark.parametrize("place", ["kinora:preview:a", "kinora:preview:a:number"])
@pytest.mark.parametrize("junk", JUNK)
def test_the_next_preview_takes_the_place_of_what_others_wrote_there(
    redis_server: RedisServer, junk: str, place: str
) -> None:
    previews = previews_in(redis_server)
    previews.put("b", b"another")
    JUNK[junk](redis_server.client, place)
    assert (previews.get("a"), previews.numbers_of(["a", "b"])) == (None, {"b": 1})
    previews.put("a", b"x")
    assert previews.get("a") == (1, b"x")
    assert 0 < redis_server.client.ttl(place) <= LIFE_SECONDS


def test_of_a_number_that_has_megabytes_a_few_bytes_are_read(redis_server: RedisServer) -> None:
    previews = previews_in(redis_server)
    redis_server.client.set("kinora:preview:a:number", b"1" * 50_000_000)
    redis_server.client.config_resetstat()
    assert (previews.get("a"), previews.numbers_of(["a"])) == (None, {})
    assert redis_server.client.info("stats")["total_net_output_bytes"] < 10_000
