"""RQ's loop, with our own way to run a job: the step runs in this very process, so the model stays loaded.

Of RQ this keeps the blocking pop, the heartbeat and the registration (`rq info` works, if the ACL allows it). It does
not use RQ's execution, registries or commands: a job's id is the step's, and the rest is deleted unread, whatever
somebody wrote into Redis. Nothing that stands there is imported, called, unpickled or sent anywhere.
"""

import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import structlog
from redis import Redis
from redis.client import Pipeline
from redis.exceptions import ResponseError
from rq import Queue
from rq.exceptions import StopRequested
from rq.job import Job
from rq.utils import now
from rq.worker import SimpleWorker
from rq.worker_registration import REDIS_WORKER_KEYS, register

from core.ids import is_id
from core.queue import SERIALIZER
from core.redis_keys import delete_wrong_keys, taken_key, workers_key

log = structlog.get_logger(__name__)

# RQ blocks for this less 15 s in one pop, which is how long a frozen Redis can go unnoticed.
WORKER_TTL_SECONDS = 30
HEARTBEAT_SECONDS = 5.0

JOB_PREFIX = Job.redis_job_namespace_prefix.encode()
MOST_SHOWN = 100  # bytes of what is no id
WORKER_PREFIX = SimpleWorker.redis_worker_namespace_prefix.encode()


class StepJob(Job):
    """A job of which nothing but its id is read. RQ reads every field, and one that it cannot parse ends its loop."""

    @classmethod
    def fetch(cls, id: str, connection: "Redis | None" = None, serializer: Any = None) -> "StepJob":
        return cls(id, connection, serializer)


class WakeUps(Queue):
    """RQ's queue, of which whatever is no id of ours is passed over. RQ's loop ends at what is no text."""

    @classmethod
    def lmove(cls, connection: "Redis", queue_key: str, timeout: int | None) -> Any:
        while found := cls._lmove(connection, queue_key, timeout):
            if is_id(str(found[1], errors="replace")):
                break
            entry = found[1]
            log.warning("job_refused", job_id=repr(entry[:MOST_SHOWN]))  # it may have megabytes
            # All that were taken: one that is being answered needs to stand there no more.
            connection.unlink(taken_key(queue_key.removeprefix(cls.redis_queue_namespace_prefix)), JOB_PREFIX + entry)
        return found

    @classmethod
    def _lmove(cls, connection: "Redis", queue_key: str, timeout: int | None) -> Any:
        try:
            return super().lmove(connection, queue_key, timeout)
        except ResponseError:
            if not delete_wrong(connection):
                raise
            return super().lmove(connection, queue_key, timeout)


def delete_wrong(connection: "Redis") -> bool:
    """Delete the shared keys that somebody else wrote. Return whether there was one."""
    wrong = delete_wrong_keys(connection)
    for name, fault in wrong.items():
        log.warning("redis_key_deleted", key=name, reason=fault)
    return bool(wrong)


class StepWorker(SimpleWorker):
    job_class = StepJob
    queue_class = WakeUps
    # RQ would double its pause up to a minute, so that a worker slept on long after Redis was back.
    max_connection_wait_time = 1.0

    def __init__(
        self, queue: str, connection: "Redis", answer: Callable[[], bool], drain: Callable[[], None] = lambda: None
    ) -> None:
        """`answer()` runs or begins the step whose turn it is, raises nothing and says whether to go on; `drain()` is
        called at a stop, for what runs then, here or in another thread."""
        super().__init__(
            [WakeUps(queue, connection=connection, serializer=SERIALIZER)],
            connection=connection,
            serializer=SERIALIZER,
            worker_ttl=WORKER_TTL_SECONDS,
            log_job_description=False,
        )
        self.answer, self.drain = answer, drain
        self.stopping = False
        self._working = False
        self._beat_at = float("-inf")

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Answer, then delete the job: the ledger says which step it is, and its start waits for nothing in Redis."""
        self._working = True
        try:
            self.stopping = not self.answer() or self.stopping
        finally:
            self._working = False
        with self.connection.pipeline() as pipeline:
            pipeline.lrem(queue.intermediate_queue_key, 1, job.id)
            pipeline.delete(job.key)  # all there is: our jobs have no dependents, and stand in no registry
            pipeline.execute(raise_on_error=False)  # what was taken may be no list by now
        if self.stopping:
            raise StopRequested

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        # RQ beats several times around each job; what `rq info` shows needs one every few seconds.
        if time.monotonic() - self._beat_at > HEARTBEAT_SECONDS:
            self._beat_at = time.monotonic()
            connection = self.connection if pipeline is None else pipeline
            connection.hset(self.key, mapping=self.serialize())  # all of it: a Redis that was wiped knows no worker
            register(self, pipeline)
            super().heartbeat(timeout, pipeline)

    def register_birth(self) -> None:
        """Make sure first that the keys can be what this worker takes them for, or its loop would never begin."""
        delete_wrong(self.connection)
        super().register_birth()  # type: ignore[no-untyped-call]

    def check_for_suspension(self, burst: bool) -> None:
        """Look for no `rq:suspended`: whoever can write it could stop every worker for ever, and nobody would see."""

    def run_maintenance_tasks(self) -> None:
        """Only what our jobs need. RQ also cleans registries, where they never stand, and there it calls the function
        that a job names for its failure."""
        delete_wrong(self.connection)
        for queue in self.queues:
            self._forget_dead_workers(workers_key(queue.name))
            # Answered by somebody, or by a worker that died: the ledger has the steps.
            with self.connection.pipeline() as pipeline:
                pipeline.lrange(queue.intermediate_queue_key, 0, -1)
                pipeline.delete(queue.intermediate_queue_key)
                taken, _ = pipeline.execute()
            if taken:
                self.connection.delete(*(JOB_PREFIX + entry for entry in taken))
        self._forget_dead_workers(REDIS_WORKER_KEYS)
        self.last_cleaned_at = now()  # type: ignore[assignment] # RQ declares it by the None that it begins with

    def _forget_dead_workers(self, key: str) -> None:
        """RQ's own way ends at a name that is no text, or that it may not ask for."""
        names: Any = self.connection.smembers(key)
        asked = [name for name in names if name.startswith(WORKER_PREFIX)]
        with self.connection.pipeline(transaction=False) as pipeline:
            for name in asked:
                pipeline.exists(name)
            living = {name for name, lives in zip(asked, pipeline.execute(), strict=True) if lives}
        if dead := names - living:
            self.connection.srem(key, *dead)

    def subscribe(self) -> None:
        """To no commands: `stop-job` could kill this process's whole group, and signals stop a worker in order."""

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """SIGTERM or SIGINT: end now when idle, else after the step."""
        if self.stopping:
            return
        self.stopping = True
        self.drain()
        if not self._working:
            raise StopRequested

    def _install_signal_handlers(self) -> None:
        signal.signal(signal.SIGINT, self.request_stop)
        signal.signal(signal.SIGTERM, self.request_stop)
