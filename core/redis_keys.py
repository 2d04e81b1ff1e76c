"""The keys in Redis that several processes use: of which type each is, and how large it gets at most. One that somebody
else wrote is deleted, since Redis holds nothing that may not be lost: workers and wake-ups are written again within
seconds.

The others mend themselves: a job by its worker (worker/run/rq_worker.py), a rate limit (app/middleware/limiter.py) and
a preview (core/live_previews.py) at their next use.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from redis import Redis
from rq import Queue
from rq.intermediate_queue import IntermediateQueue
from rq.worker_registration import REDIS_WORKER_KEYS, WORKERS_BY_QUEUE_KEY

QUEUES = ("cpu", "gpu", "net")
MOST_WAKE_UPS = 100_000
MOST_WORKERS = 10_000
MOST_BYTES = 16_000_000  # whoever reads one reads all of it
COUNT = {"list": "LLEN", "set": "SCARD"}


class RedisKey(NamedTuple):
    name: str
    type: str
    most: int
    """Entries."""


def queue_key(queue: str) -> str:
    """RQ's name for it in Redis."""
    return f"{Queue.redis_queue_namespace_prefix}{queue}"


def workers_key(queue: str) -> str:
    """RQ's name for the set of the workers of a queue."""
    return WORKERS_BY_QUEUE_KEY % queue


def taken_key(queue: str) -> str:
    """RQ's name for the wake-ups of a queue that were taken and not answered yet."""
    return IntermediateQueue.get_intermediate_queue_key(queue_key(queue))


LISTS = [*map(queue_key, QUEUES), *map(taken_key, QUEUES)]
SETS = [Queue.redis_queues_keys, REDIS_WORKER_KEYS, *map(workers_key, QUEUES)]
SHARED = [
    *(RedisKey(name, "list", MOST_WAKE_UPS) for name in LISTS),
    *(RedisKey(name, "set", MOST_WORKERS) for name in SETS),
]


def wrong_keys(redis: Redis) -> dict[str, str]:
    """Return what is wrong with each shared key that cannot be what Kinora wrote. Raises RedisError."""
    types = _answers(redis, [("TYPE", key.name) for key in SHARED])
    there = [(key, found.decode()) for key, found in zip(SHARED, types, strict=True) if found != b"none"]
    wrong = {key.name: f"it is a {found} and not a {key.type}" for key, found in there if found != key.type}
    right = [key for key, _ in there if key.name not in wrong]
    counts = _answers(redis, [(COUNT[key.type], key.name) for key in right])
    for key, entries in zip(right, counts, strict=True):
        if entries > key.most:
            wrong[key.name] = f"it has {entries} entries, of {key.most} at most"
    short = [key for key in right if key.name not in wrong]
    sizes = _answers(redis, [("MEMORY USAGE", key.name, "SAMPLES", 0) for key in short])
    for key, size in zip(short, sizes, strict=True):
        if (size or 0) > MOST_BYTES:  # none: it has gone since
            wrong[key.name] = f"it has {size} bytes, of {MOST_BYTES} at most"
    return wrong


def delete_wrong_keys(redis: Redis) -> dict[str, str]:
    """Delete the shared keys that are wrong, and return them like `wrong_keys`. Raises RedisError."""
    wrong = wrong_keys(redis)
    if wrong:
        redis.unlink(*wrong)
    return wrong


def _answers(redis: Redis, commands: Sequence[tuple[object, ...]]) -> list[Any]:
    """Return what Redis answers to each, sent together: the keeper asks twice a second."""
    with redis.pipeline(transaction=False) as pipeline:
        for command in commands:
            pipeline.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py says none here
        return pipeline.execute()
