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
        with _at_no_cost():
            if not self._has_put(task_id, webp):  # its number is none: somebody else wrote it
                self.delete(task_id)
                self._has_put(task_id, webp)

    def get(self, task_id: str) -> LivePreview | None:
        with _at_no_cost():
            picture, _ = keys(task_id)
            found = self.numbers_of([task_id])
            webp: Any = self.redis.getrange(picture, 0, MOST_BYTES)  # whatever else somebody wrote there
            if webp and len(webp) <= MOST_BYTES and found:
                return LivePreview(found[task_id], webp)
        return None

    def numbers_of(self, task_ids: Sequence[str]) -> dict[str, int]:
        """Of those that have one, in one question."""
        with _at_no_cost(), self.redis.pipeline(transaction=False) as pipeline:
            for task_id in task_ids:
                pipeline.getrange(keys(task_id)[1], 0, MOST_DIGITS)  # somebody else's may have megabytes
            found = zip(task_ids, pipeline.execute(raise_on_error=False), strict=True)
            return {task_id: int(number) for task_id, number in found if is_number(number)}
        return {}

    def delete(self, task_id: str) -> None:
        with _at_no_cost():
            self.redis.delete(*keys(task_id))

    def _has_put(self, task_id: str, webp: bytes) -> bool:
        """Return whether the preview has a number now."""
        picture, number = keys(task_id)
        with self.redis.pipeline() as pipeline:
            pipeline.set(picture, webp, ex=LIFE_SECONDS)
            pipeline.incr(number)
            pipeline.expire(number, LIFE_SECONDS)
            _, counted, _ = pipeline.execute(raise_on_error=False)
        return isinstance(counted, int) and is_number(b"%d" % counted)


def is_number(found: bytes | Exception) -> bool:
    return isinstance(found, bytes) and found.isdigit() and len(found) <= MOST_DIGITS


def keys(task_id: str) -> tuple[str, str]:
    """Where the picture is, and its number: apart, so that whoever asks for many numbers is sent no pictures."""
    return f"kinora:preview:{task_id}", f"kinora:preview:{task_id}:number"


@contextmanager
def _at_no_cost() -> Iterator[None]:
    try:
        yield
    except RedisError as error:
        log.warning("preview_lost", reason=str(error))
