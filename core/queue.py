"""Wake-ups for workers, over RQ: one kind of job, which says that a step may be ready. Lost ones the keeper repeats."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry
from rq import Queue
from rq.job import Job
from rq.serializers import JSONSerializer

from core.config.redis_url import redis_options
from core.config.settings import Settings
from core.errors import QueueUnavailable
from core.redis_keys import QUEUES, delete_wrong_keys, queue_key, wrong_keys

STEP_FUNCTION = "worker.run.lanes.Lane.run_next"
SERIALIZER = JSONSerializer

# A frozen Redis must not hold an upload for long: the keeper wakes a worker later.
TIMEOUT_SECONDS = 1.0


class PasswordFile(CredentialProvider):
    """Read at each connection, so that Redis may choose its password after we have started, and choose anew."""

    def __init__(self, path: Path, username: str) -> None:
        self.path, self.username = path, username

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        try:
            password = self.path.read_text().removesuffix("\n")
            return (self.username, password) if self.username else (password,)
        except (OSError, UnicodeDecodeError) as error:
            # As if Redis were away: whoever waits for it waits for the file too.
            raise RedisConnectionError(f"REDIS_PASSWORD_FILE cannot be read: {error}") from error


def connect_redis(settings: Settings, **options: Any) -> Redis:
    return Redis(
        **{"socket_connect_timeout": TIMEOUT_SECONDS} | options | _address(settings) | _credentials(settings),
        # Neither is of use here, and the ACL of deploy/redis/ knows only commands that are.
        driver_info=None,
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
    )


def _address(settings: Settings) -> dict[str, Any]:
    if settings.redis_url:
        return redis_options(settings.redis_url)
    return {"host": settings.redis_host, "port": settings.redis_port, "db": settings.redis_db}


def _credentials(settings: Settings) -> dict[str, Any]:
    """Return those of REDIS_URL, and for what it does not have those of the other settings."""
    found = _address(settings)
    username, password = found.get("username") or settings.redis_username, found.get("password")
    if settings.redis_password_file and not password:
        provider = PasswordFile(settings.redis_password_file, username)
        return {"username": None, "credential_provider": provider}
    return {"username": username or None, "password": password or settings.redis_password or None}


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

    def clear(self, queue: str) -> None:
        """Delete all wake-ups of a queue: the keeper sends again those that are needed."""
        with _translated():
            self.redis.unlink(queue_key(queue))

    def wrong_keys(self) -> dict[str, str]:
        """Return what is wrong with each shared key that somebody else has written. Raises QueueUnavailable."""
        with _translated():
            return wrong_keys(self.redis)

    def delete_wrong_keys(self) -> dict[str, str]:
        """Delete those, and return what was wrong with each. Raises QueueUnavailable."""
        with _translated():
            return delete_wrong_keys(self.redis)

    def ping(self) -> None:
        """Raises QueueUnavailable, also if Redis answers but takes no writes: full, or a replica."""
        with _translated():
            self.redis.set("kinora:ping", 1, ex=60)

    def close(self) -> None:
        self.redis.close()


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except RedisError as error:
        raise QueueUnavailable(f"Redis does not answer: {reason_of(error)}") from error


def reason_of(error: RedisError) -> str:
    """Return why Redis cannot be used, with the settings that may be wrong."""
    settings = "REDIS_URL, REDIS_HOST"
    if isinstance(error, AuthenticationError):
        settings = "REDIS_USERNAME, REDIS_PASSWORD, REDIS_PASSWORD_FILE or REDIS_URL"
    elif isinstance(error, NoPermissionError):
        settings = "the rights of its user: deploy/redis/users.acl lists them"
    return f"{error} (see {settings})"
