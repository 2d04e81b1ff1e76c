"""What somebody writes into Redis who has its password, or finds none."""

from redis import Redis

NO_TEXT = b"\xff\xfe"
QUEUE, WORKERS = "rq:queue:cpu", "rq:workers"
ID_BYTES = 1_000_000


def write_junk(redis: Redis, megabytes: int) -> None:
    """One time, all that follows at once."""
    for name in redis.scan_iter("*kinora:limits*"):
        redis.set(name, 10**9)  # without a life: it would count for ever
    redis.set(WORKERS, NO_TEXT)
    redis.set(QUEUE, NO_TEXT)
    redis.unlink(QUEUE)
    redis.rpush(QUEUE, NO_TEXT, b"", b"../x")
    for _ in range(megabytes):
        redis.rpush(QUEUE, b"a" * ID_BYTES)


def write_wrong_types(redis: Redis) -> None:
    """What stands until somebody deletes it."""
    for name in (QUEUE, WORKERS):
        redis.set(name, NO_TEXT)
