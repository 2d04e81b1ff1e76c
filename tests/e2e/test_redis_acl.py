"""The service on a Redis that has the compose file's password and ACL: enough to work, and nothing beyond."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from limits import parse
from limits.storage import RedisStorage
from limits.strategies import FixedWindowRateLimiter, MovingWindowRateLimiter, SlidingWindowCounterRateLimiter
from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError
from rq import Worker

from app.middleware.limiter import GuardedStorage
from core.config.settings import Settings
from core.errors import QueueUnavailable
from core.live_previews import LivePreviews
from core.queue import StepQueue, connect_redis
from core.redis_keys import SHARED
from harness.pictures import SAMPLES
from harness.servers import RedisServer, wait_until
from harness.stack import Stack, running_stack

CAT = SAMPLES / "cat.jpg"
SMALL = {"width": 64, "height": 64, "num_frames": 2}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running_stack(tmp_path_factory.mktemp("acl"), guarded=True) as stack:
        yield stack


@pytest.fixture
def settings(stack: Stack) -> Settings:
    return Settings(
        _env_file=None, redis_port=stack.redis.port, redis_password_file=Path(stack.environment["REDIS_PASSWORD_FILE"])
    )


@pytest.fixture
def connection(settings: Settings) -> Iterator[Redis]:
    with connect_redis(settings) as connection:
        yield connection


@pytest.fixture(autouse=True)
def _nothing_refused_yet(stack: Stack) -> None:
    stack.redis.client.acl_log_reset()


def refused(redis: RedisServer) -> list[object]:
    """Of a password that was changed just now, some may try the old one once more."""
    found = [entry for entry in redis.client.acl_log() if entry["reason"] != "auth"]
    return [(entry["object"], entry["username"]) for entry in found]


def make_a_video(stack: Stack) -> None:
    assert stack.wait_for(stack.upload(CAT, **SMALL))["status"] == "finished"


def test_the_service_makes_videos_and_asks_for_nothing_that_is_refused(stack: Stack) -> None:
    make_a_video(stack)
    waiting = stack.upload(CAT, num_frames=100)
    assert stack.client.post(f"/cancel/{waiting}").status_code == 200
    stack.kill("worker-cpu")
    late = stack.upload(CAT, **SMALL)
    stack.start("worker-cpu", "worker", "--queue", "cpu")
    assert stack.wait_for(late)["status"] == "finished"
    assert refused(stack.redis) == []


def test_every_use_of_the_queue_is_allowed(stack: Stack, settings: Settings, connection: Redis) -> None:
    queue = StepQueue(settings)
    queue.ping()
    queue.wake("s1", "gpu")
    queue.wake("s2", "gpu")
    assert queue.queued_ids("gpu") == {"s1", "s2"}
    queue.remove("s1")
    queue.remove("s2")
    queue.close()
    # A Redis that was restarted just now hears of the worker within its pop, of 15 s.
    wait_until(lambda: len(Worker.all(connection=connection)) >= 1, 30, "a worker")
    assert refused(stack.redis) == []


@pytest.mark.parametrize("name", [key.name for key in SHARED])
def test_a_shared_key_may_be_looked_at_and_deleted(stack: Stack, settings: Settings, name: str) -> None:
    queue = StepQueue(settings)
    assert stack.redis.client.type(name) in (b"none", b"list", b"set")
    assert name not in queue.wrong_keys()
    stack.redis.client.delete(name)
    stack.redis.client.set(name, "neither")
    queue.delete_wrong_keys()
    wait_until(lambda: stack.redis.client.type(name) != b"string")
    queue.close()
    assert refused(stack.redis) == []


def test_every_use_of_previews_is_allowed(stack: Stack, connection: Redis) -> None:
    previews = LivePreviews(connection)
    previews.put("t", b"webp")
    assert previews.get("t") == (1, b"webp")
    assert previews.numbers_of(["t", "none"]) == {"t": 1}
    previews.delete("t")
    assert previews.get("t") is None
    assert refused(stack.redis) == []


@pytest.mark.parametrize("storage_class", [RedisStorage, GuardedStorage])
@pytest.mark.parametrize("kind", [FixedWindowRateLimiter, MovingWindowRateLimiter, SlidingWindowCounterRateLimiter])
def test_every_kind_of_rate_limit_is_allowed(
    stack: Stack, connection: Redis, kind: type, storage_class: type[RedisStorage]
) -> None:
    storage = storage_class("redis://", connection_pool=connection.connection_pool, key_prefix="kinora:limits")
    assert storage.check()
    limiter, two = kind(storage), parse("2/minute")
    assert [limiter.hit(two, "someone") for _ in range(3)] == [True, True, False]
    assert limiter.get_window_stats(two, "someone").remaining == 0
    limiter.clear(two, "someone")
    assert limiter.test(two, "someone")
    assert refused(stack.redis) == []


DANGEROUS = {
    "CONFIG GET *", "CONFIG SET dir /tmp", "FLUSHALL", "FLUSHDB", "KEYS *", "SCAN 0", "DEBUG SLEEP 0", "MODULE LIST",
    "SAVE", "BGSAVE", "BGREWRITEAOF", "SHUTDOWN NOSAVE", "REPLICAOF NO ONE", "SLAVEOF NO ONE", "ACL LIST", "ACL WHOAMI",
    "ACL SETUSER evil on nopass ~* +@all", "MONITOR", "EVAL return(1) 0", "SCRIPT FLUSH", "CLIENT KILL TYPE normal",
    "MIGRATE 127.0.0.1 1 rq:a 0 1", "SUBSCRIBE rq:pubsub:a", "PUBLISH rq:pubsub:a shutdown", "SWAPDB 0 1",
    "DUMP rq:a", "RESTORE rq:a 0 x", "SORT rq:a", "COPY rq:a rq:b", "OBJECT FREQ rq:a", "SLOWLOG GET", "LATENCY RESET",
}  # fmt: skip


@pytest.mark.parametrize("command", sorted(DANGEROUS))
def test_a_command_that_the_service_has_no_use_for_is_refused(stack: Stack, connection: Redis, command: str) -> None:
    with pytest.raises(NoPermissionError):
        connection.execute_command(*command.split())


@pytest.mark.parametrize(
    "command", ["SET other 1", "GET secrets", "DEL a", "RENAME rq:a other", "LMOVE a rq:a LEFT LEFT"]
)
def test_a_key_that_is_not_the_services_is_refused(stack: Stack, connection: Redis, command: str) -> None:
    with pytest.raises(NoPermissionError):
        connection.execute_command(*command.split())


def test_a_script_can_do_no_more_than_the_service(stack: Stack, connection: Redis) -> None:
    for command in ("'FLUSHALL'", "'KEYS', '*'", "'SET', 'other', '1'"):
        script = connection.script_load(f"return redis.pcall({command})")
        with pytest.raises(ResponseError, match="The user executing the script"):
            connection.evalsha(script, 0)


@pytest.mark.parametrize("password", [None, "", "wrong", "PASSWORD_SHA256"])
def test_without_the_password_nothing_is_answered(stack: Stack, password: str | None) -> None:
    with Redis(port=stack.redis.port, password=password) as stranger, pytest.raises(AuthenticationError):
        stranger.ping()


def test_the_password_is_random_and_stays_over_a_restart(stack: Stack) -> None:
    before = stack.redis.password_file.read_text()
    assert len(before) == 64
    stack.redis.stop()
    stack.redis.start()
    assert stack.redis.password_file.read_text() == before
    with RedisServer(guarded=True) as another:
        assert another.password_file.read_text() != before


def test_a_new_password_reaches_every_process_without_a_restart(stack: Stack) -> None:
    before = stack.redis.password_file.read_text()
    stack.redis.stop()
    stack.redis.password_file.unlink()
    stack.redis.start()
    assert stack.redis.password_file.read_text() != before
    stack.wait_until_ready()
    make_a_video(stack)


def test_a_password_may_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_PASSWORD", "cho sen/&$1'\"#")
    with RedisServer(guarded=True) as server:
        assert server.password_file.read_text() == "cho sen/&$1'\"#"
        queue = StepQueue(Settings(_env_file=None, redis_port=server.port))  # the environment has it
        queue.ping()
        queue.close()


def test_a_process_may_start_before_its_password_is_there(tmp_path: Path) -> None:
    with RedisServer(guarded=True) as server:
        settings = Settings(_env_file=None, redis_port=server.port, redis_password_file=tmp_path / "later")
        queue = StepQueue(settings)
        with pytest.raises(QueueUnavailable, match="REDIS_PASSWORD_FILE cannot be read"):
            queue.ping()
        (tmp_path / "later").write_text(server.password_file.read_text() + "\n")
        queue.ping()
        queue.close()
