"""Wake-ups for workers, over RQ: one kind of job, which says that a step may be ready. Lost ones the keeper repeats."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry
from rq import Queue
from rq.job import Job
from rq.serializers import JSONSerializer

from core.config.settings import Settings
from core.errors import QueueUnavailable

QUEUES = ("cpu", "gpu", "net")
STEP_FUNCTION = "worker.run.lanes.Lane.run_next"
SERIALIZER = JSONSerializer

# A frozen Redis must not hold an upload for long: the keeper wakes a worker later.
TIMEOUT_SECONDS = 1.0


class PasswordFile(CredentialProvider):
    """Read at each connection, so that Redis may choose its password after we have started, and choose anew."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def get_credentials(self) -> tuple[str]:
        try:
            return (self.path.read_text().removesuffix("\n"),)
        except (OSError, UnicodeDecodeError) as error:
            # As if Redis were away: whoever waits for it waits for the file too.
            raise RedisConnectionError(f"REDIS_PASSWORD_FILE cannot be read: {error}") from error


def connect_redis(settings: Settings, **options: Any) -> Redis:
    path = settings.redis_password_file
    return Redis(
        host=settings.redis_host,
        port=settings.redis_port,
        db=settings.redis_db,
        password=settings.redis_password or None,
        credential_provider=PasswordFile(path) if path else None,
        socket_connect_timeout=TIMEOUT_SECONDS,
        # Neither is of use here, and the ACL of deploy/redis/ knows only commands that are.
        driver_info=None,
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
        **options,
    )


class StepQueue:
    def __init__(self, settings: Settings) -> None:
        # redis-py would try four times with growing pauses, and an upload would wait for that. Once more, at once, is
        # for a connection that was left over from before Redis restarted.
        retry = Retry(NoBackoff(), retries=1)
        self.redis = connect_redis(settings, socket_timeout=TIMEOUT_SECONDS, retry=retry)

    def wake(self, step_id: str, queue: str) -> None:
        """Wake a worker of `queue`, for there is one more step to claim. Which one it claims, the ledger says.

        Raises QueueUnavailable; whoever recorded the step in the ledger may go on.
        """
        with _translated(), self.redis.pipeline() as pipeline:  # or RQ would ask twice
            # Answered by worker/run/rq_worker.py, which reads the id alone: the rest is for RQ's other tools.
            Queue(queue, connection=self.redis, serializer=SERIALIZER).enqueue_call(
                STEP_FUNCTION,
                args=(step_id,),
                job_id=step_id,
                timeout=-1,
                result_ttl=0,
                failure_ttl=0,
                pipeline=pipeline,
            )
            pipeline.execute()

    def queued_ids(self, queue: str) -> set[str]:
        """Return the ids of the steps that have a job in `queue`. Raises QueueUnavailable."""
        with _translated():
            entries = self.redis.lrange(queue_key(queue), 0, -1)
        return {str(entry, errors="replace") for entry in entries if isinstance(entry, bytes)}

    def remove(self, step_id: str) -> None:
        """Remove the wake-up of a step that ended before a worker took it."""
        with _translated(), self.redis.pipeline() as pipeline:
            for queue in QUEUES:
                pipeline.lrem(queue_key(queue), 1, step_id)
            pipeline.delete(Job.key_for(step_id))
            pipeline.execute()

    def ping(self) -> None:
        """Raises QueueUnavailable, also if Redis answers but takes no writes: full, or a replica."""
        with _translated():
            self.redis.set("kinora:ping", 1, ex=60)

    def close(self) -> None:
        self.redis.close()


def queue_key(queue: str) -> str:
    """RQ's name for it in Redis."""
    return f"{Queue.redis_queue_namespace_prefix}{queue}"


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except RedisError as error:
        raise QueueUnavailable(f"Redis does not answer: {error}") from error
