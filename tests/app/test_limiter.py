import pickle
from collections.abc import Callable

import pytest
from fastapi.testclient import TestClient
from limits import parse
from limits.strategies import SlidingWindowCounterRateLimiter as SlidingWindow
from redis import Redis

from app.main import create_app
from app.middleware.limiter import GuardedStorage, Limiter
from core.config.settings import Settings
from core.queue import StepQueue, connect_redis
from harness.pictures import CAT
from harness.servers import RedisServer, free_port


@pytest.fixture
def slow(settings: Settings) -> Settings:
    return settings.model_copy(update={"rate_limit": "3/hour"})


def key(client: TestClient, name: str) -> dict[str, str]:
    return {"X-API-Key": client.app.state.services.ledger.keys.create(name)[1]}


def test_a_key_that_asks_too_often_is_told_when_to_come_back(slow: Settings) -> None:
    with TestClient(create_app(slow)) as client:
        ann, bob = key(client, "ann"), key(client, "bob")
        answers = [client.get("/tasks", headers=ann) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        assert [answer.headers["x-ratelimit-limit"] for answer in answers[:3]] == ["3"] * 3
        assert [answer.headers["x-ratelimit-remaining"] for answer in answers[:3]] == ["2", "1", "0"]
        refused = answers[3]
        assert refused.json()["error"]["code"] == "rate_limited"
        assert 0 < int(refused.headers["retry-after"]) <= 3600
        assert refused.headers["x-ratelimit-remaining"] == "0"
        assert client.get("/tasks", headers=bob).status_code == 200
        assert client.get("/health/live").status_code == 200


def test_all_fronts_count_together(slow: Settings) -> None:
    with TestClient(create_app(slow)) as one, TestClient(create_app(slow)) as two:
        ann = key(one, "ann")
        assert [client.get("/tasks", headers=ann).status_code for client in (one, two, one, two)] == [
            200,
            200,
            200,
            429,
        ]


def test_nothing_of_a_key_stands_in_redis(slow: Settings, redis_server: RedisServer) -> None:
    with TestClient(create_app(slow)) as client:
        ann = key(client, "ann")
        client.post("/generate", files={"file": CAT}, headers=ann)
        names = [name.decode() for name in redis_server.client.keys("*")]
        assert any(name.startswith("kinora:limits") for name in names)
        everything = b"".join(redis_server.client.dump(name) or b"" for name in names) + " ".join(names).encode()
        assert ann["X-API-Key"].removeprefix("kinora_").encode() not in everything


def test_while_redis_is_away_each_front_counts_for_itself(slow: Settings) -> None:
    limiter = Limiter(slow)
    away = StepQueue(slow.model_copy(update={"redis_port": free_port()}))
    limiter.share(away.redis)
    granted = [limiter.hit("ann") for _ in range(4)]
    assert [found.granted for found in granted if found] == [True, True, True, False]
    away.close()


def test_when_redis_is_back_it_counts_there_again(slow: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.middleware.limiter.AWAY_SECONDS", 0.0)
    with RedisServer() as server:
        limiter = Limiter(slow)
        queue = StepQueue(slow.model_copy(update={"redis_port": server.port}))
        limiter.share(queue.redis)
        limiter.hit("ann")
        server.stop()
        limiter.hit("ann")
        server.start()
        limiter.hit("ann")
        counting = connect_redis(slow.model_copy(update={"redis_port": server.port}))
        assert counting.keys("kinora:limits*")
        counting.close()
        queue.close()


def test_no_limit_is_none(settings: Settings) -> None:
    assert Limiter(settings.model_copy(update={"rate_limit": "0"})).hit("ann") is None


def test_a_redis_that_failed_is_not_asked_again_at_once(slow: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    limiter, asked = Limiter(slow), []
    away = StepQueue(slow.model_copy(update={"redis_port": free_port()}))
    limiter.share(away.redis)
    shared = limiter._shared
    assert shared is not None
    hit = shared.hit
    monkeypatch.setattr(shared, "hit", lambda *given: asked.append(given) or hit(*given))
    for _ in range(3):
        limiter.hit("ann")
    assert len(asked) == 1
    away.close()


JUNK: dict[str, Callable[[Redis, bytes], object]] = {
    "a count without an end": lambda redis, name: redis.set(name, 3),
    "a count that ends in a year": lambda redis, name: redis.set(name, 3, ex=31_536_000),
    "more than is ever counted": lambda redis, name: redis.set(name, 999_999, ex=5000),
    "a number too large": lambda redis, name: redis.set(name, "9" * 400, ex=5000),
    "less than nothing": lambda redis, name: redis.set(name, -1_000_000, ex=5000),
    "a fraction": lambda redis, name: redis.set(name, "2.5", ex=5000),
    "no number": lambda redis, name: redis.set(name, b"\xff\xfe", ex=5000),
    "a pickle": lambda redis, name: redis.set(name, pickle.dumps({"count": 3}), ex=5000),
    "50 MB": lambda redis, name: redis.set(name, bytes(50_000_000), ex=5000),
    "nothing": lambda redis, name: redis.set(name, b"", ex=5000),
    "a hash": lambda redis, name: redis.hset(name, "a", "b"),
    "a list": lambda redis, name: redis.rpush(name, 3),
    "a set": lambda redis, name: redis.sadd(name, 3),
}


@pytest.mark.parametrize("which", ["current", "previous"])
@pytest.mark.parametrize("junk", JUNK)
def test_what_somebody_else_wrote_in_a_counts_place_is_not_counted(
    slow: Settings, redis_server: RedisServer, junk: str, which: str
) -> None:
    with TestClient(create_app(slow)) as client:
        ann = key(client, "ann")
        client.get("/tasks", headers=ann)
        (current,) = redis_server.client.keys("kinora:limits*")
        name = current if which == "current" else current + b"/-1"
        redis_server.client.delete(name)
        JUNK[junk](redis_server.client, name)
        asked = [client.get("/tasks", headers=ann) for _ in range(4)]
    # What was counted before is lost with the place that it had, and with nothing else.
    assert [answer.status_code for answer in asked][:2] == [200, 200]
    assert asked[-1].status_code == 429
    assert [answer.headers["x-ratelimit-remaining"] for answer in asked[:2]] == (
        ["2", "1"] if which == "current" else ["1", "0"]
    )


def test_a_window_that_went_by_still_counts(redis_server: RedisServer) -> None:
    """What the library moves from one key to the other is no junk."""
    redis_server.client.flushall()
    strategy, rule = SlidingWindow(GuardedStorage("redis://", redis_server.client.connection_pool)), parse("4/hour")
    assert [strategy.hit(rule, "ann") for _ in range(4)] == [True] * 4
    (current,) = redis_server.client.keys("*")
    redis_server.client.pexpire(current, 3_500_000)  # as 100 s after its hour
    assert [strategy.hit(rule, "ann") for _ in range(2)] == [True, False]
    assert redis_server.client.get(current + b"/-1") == b"4"
