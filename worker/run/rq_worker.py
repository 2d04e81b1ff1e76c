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
from rq import Queue
from rq.exceptions import NoSuchJobError, StopRequested
from rq.job import Job
from rq.utils import now
from rq.worker import SimpleWorker
from rq.worker_registration import clean_worker_registry, register

from core.ids import is_id
from core.queue import SERIALIZER

log = structlog.get_logger(__name__)

# RQ blocks for this less 15 s in one pop, which is how long a frozen Redis can go unnoticed.
WORKER_TTL_SECONDS = 30
HEARTBEAT_SECONDS = 5.0

JOB_PREFIX = Job.redis_job_namespace_prefix.encode()


class StepJob(Job):
    """A job of which nothing but its id is read. RQ reads every field, and one that it cannot parse ends its loop."""

    @classmethod
    def fetch(cls, id: str, connection: "Redis | None" = None, serializer: Any = None) -> "StepJob":
        try:
            return cls(id, connection, serializer)
        except ValueError as error:  # no id that RQ would give
            raise NoSuchJobError(f"not a job: {id!r:.100}") from error


class StepWorker(SimpleWorker):
    job_class = StepJob
    # RQ would double its pause up to a minute, so that a worker slept on long after Redis was back.
    max_connection_wait_time = 1.0

    def __init__(
        self, queue: str, connection: "Redis", answer: Callable[[], bool], drain: Callable[[], None] = lambda: None
    ) -> None:
        """`answer()` runs or begins the step whose turn it is, raises nothing and says whether to go on; `drain()` is
        called at a stop, for what runs then, here or in another thread."""
        super().__init__(
            [Queue(queue, connection=connection, serializer=SERIALIZER)],
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
        if is_id(job.id):
            self._working = True
            try:
                self.stopping = not self.answer() or self.stopping
            finally:
                self._working = False
        else:
            log.warning("job_refused", job_id=job.id[:100])
        with self.connection.pipeline() as pipeline:
            pipeline.lrem(queue.intermediate_queue_key, 1, job.id)
            pipeline.delete(job.key)  # all there is: our jobs have no dependents, and stand in no registry
            pipeline.execute()
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

    def run_maintenance_tasks(self) -> None:
        """Only what our jobs need. RQ also cleans registries, where they never stand, and there it calls the function
        that a job names for its failure."""
        for queue in self.queues:
            clean_worker_registry(queue)
            # Answered by somebody, or by a worker that died: the ledger has the steps.
            with self.connection.pipeline() as pipeline:
                pipeline.lrange(queue.intermediate_queue_key, 0, -1)
                pipeline.delete(queue.intermediate_queue_key)
                taken, _ = pipeline.execute(raise_on_error=False)  # it may be no list, if somebody else wrote it
            if isinstance(taken, list) and taken:
                self.connection.delete(*(JOB_PREFIX + entry for entry in taken))
        self.last_cleaned_at = now()  # type: ignore[assignment] # RQ declares it by the None that it begins with

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
