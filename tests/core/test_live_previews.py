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


def test_the_numbers_of_many_tasks_are_one_question(redis_server: RedisServer) -> None:
    previews = previews_in(redis_server)
    for task_id in ("a", "b", "b"):
        previews.put(task_id, b"x")
    redis_server.client.config_resetstat()
    assert previews.numbers_of(["a", "none", "b"]) == {"a": 1, "b": 2}
    assert previews.numbers_of([]) == {}
    asked = redis_server.client.info("commandstats")
    assert asked.pop("cmdstat_mget")["calls"] == 1
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
