"""RQ's loop, with our answer to its bell: the step runs in this very process, so the model stays loaded.

Of RQ this keeps the blocking pop, the heartbeat and the registration (`rq info` works). It does not use RQ's
execution: a job is only read for its step id and deleted, whatever else somebody wrote into Redis.
"""

import json
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import structlog
from redis import Redis
from redis.client import Pipeline
from rq import Queue
from rq.exceptions import StopRequested
from rq.job import Job
from rq.worker import SimpleWorker

from core.queue import SERIALIZER, STEP_FUNCTION

log = structlog.get_logger(__name__)

# RQ blocks for this less 15 s in one pop, which is how long a frozen Redis can go unnoticed.
WORKER_TTL_SECONDS = 30
HEARTBEAT_SECONDS = 5.0


class StepWorker(SimpleWorker):
    # RQ would double its pause up to a minute, so that a worker slept on long after Redis was back.
    max_connection_wait_time = 1.0

    def __init__(
        self, queue: str, connection: "Redis", answer: Callable[[str], bool], hurry: Callable[[], None] = lambda: None
    ) -> None:
        """`answer(step_id)` runs a step, raises nothing and says whether to go on; `hurry()` is told of a stop
        that comes while it runs."""
        super().__init__(
            [Queue(queue, connection=connection, serializer=SERIALIZER)],
            connection=connection,
            serializer=SERIALIZER,
            worker_ttl=WORKER_TTL_SECONDS,
        )
        self.answer, self.hurry = answer, hurry
        self.stopping = False
        self._working = False
        self._beat_at = float("-inf")

    def execute_job(self, job: Job, queue: Queue) -> None:
        # Deleted before the work: from here on the ledger's lease stands for the step, not the job.
        with self.connection.pipeline() as pipeline:
            pipeline.lrem(queue.intermediate_queue_key, 1, job.id)
            pipeline.delete(job.key)  # all there is: our jobs have no dependents, and stand in no registry
            pipeline.execute()
        step_id = step_of(job)
        if step_id is None:
            log.warning("job_refused", job_id=job.id)
            return
        self._working = True
        try:
            self.stopping = not self.answer(step_id) or self.stopping
        finally:
            self._working = False
        if self.stopping:
            raise StopRequested

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        # RQ beats several times around each job; what `rq info` shows needs one every few seconds.
        if time.monotonic() - self._beat_at > HEARTBEAT_SECONDS:
            self._beat_at = time.monotonic()
            super().heartbeat(timeout, pipeline)

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """SIGTERM or SIGINT: end now when idle, else after the step."""
        if not self._working:
            self.stopping = True
            raise StopRequested
        if not self.stopping:
            self.stopping = True
            self.hurry()

    def _install_signal_handlers(self) -> None:
        signal.signal(signal.SIGINT, self.request_stop)
        signal.signal(signal.SIGTERM, self.request_stop)


def step_of(job: Job) -> str | None:
    """The step a job rings for; None for any job that is not exactly ours. Imports and calls nothing."""
    try:
        function, _instance, args, kwargs = json.loads(job.data)
    except (ValueError, TypeError):
        return None
    if function != STEP_FUNCTION or kwargs or not _one_string(args):
        return None
    return str(args[0])


def _one_string(args: Any) -> bool:
    return isinstance(args, list) and len(args) == 1 and isinstance(args[0], str)
