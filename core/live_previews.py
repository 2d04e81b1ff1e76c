"""Live previews: small moving pictures of what is being made, in Redis and for a minute only. Best effort: while Redis
is down there are none, and nothing else fails."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import structlog
from redis import Redis
from redis.exceptions import RedisError

LIFE_SECONDS = 60
MOST_BYTES = 2_000_000  # ours have some ten thousand
MOST_DIGITS = 18  # of a number, which may be anybody's who can write into Redis

log = structlog.get_logger(__name__)


class LivePreview(NamedTuple):
    number: int
    """Rises with each that is put; begins anew once the last one is gone."""
    webp: bytes


class LivePreviews:
    """The newest one of each task. A frozen Redis takes a second or two of the caller's time."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis

    def put(self, task_id: str, webp: bytes) -> None:
        picture, number = keys(task_id)
        with _at_no_cost(), self.redis.pipeline() as pipeline:
            pipeline.set(picture, webp, ex=LIFE_SECONDS)
            pipeline.incr(number)
            pipeline.expire(number, LIFE_SECONDS)
            pipeline.execute()

    def get(self, task_id: str) -> LivePreview | None:
        with _at_no_cost():
            picture, number = keys(task_id)
            found: Any = self.redis.get(number)
            webp: Any = self.redis.getrange(picture, 0, MOST_BYTES)  # whatever else somebody wrote there
            if webp and len(webp) <= MOST_BYTES and is_number(found):
                return LivePreview(int(found), webp)
        return None

    def numbers_of(self, task_ids: Sequence[str]) -> dict[str, int]:
        """Of those that have one, in one question."""
        with _at_no_cost():
            found = zip(task_ids, self._values([keys(task_id)[1] for task_id in task_ids]), strict=True)
            return {task_id: int(number) for task_id, number in found if is_number(number)}
        return {}

    def delete(self, task_id: str) -> None:
        with _at_no_cost():
            self.redis.delete(*keys(task_id))

    def _values(self, names: Sequence[str]) -> Any:
        return self.redis.mget(names) if names else []


def is_number(found: bytes | None) -> bool:
    return found is not None and found.isdigit() and len(found) <= MOST_DIGITS


def keys(task_id: str) -> tuple[str, str]:
    """Where the picture is, and its number: apart, so that whoever asks for many numbers is sent no pictures."""
    return f"kinora:preview:{task_id}", f"kinora:preview:{task_id}:number"


@contextmanager
def _at_no_cost() -> Iterator[None]:
    try:
        yield
    except RedisError as error:
        log.warning("preview_lost", reason=str(error))
