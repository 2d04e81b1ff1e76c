"""Waiting for a task: a request that does so holds no thread."""

import asyncio
import time
from collections.abc import AsyncIterator

import structlog
from starlette.concurrency import run_in_threadpool

from app.deps import Services
from core.errors import LedgerUnavailable
from core.task import Step, Task, progress_of

LOOK_SECONDS = 0.5

log = structlog.get_logger(__name__)


async def follow(services: Services, task_id: str, seconds: float) -> AsyncIterator[tuple[Task, list[Step]]]:
    """The task as it is, and again whenever it has moved, until it has ended or `seconds` are over. While the ledger is
    away nothing is said."""
    give_up, told = time.monotonic() + seconds, None
    while True:
        try:
            task, steps = await run_in_threadpool(services.ledger.task_with_steps, task_id)
            if told != (told := (task.status, progress_of(steps))):
                yield task, steps
            if task.status.is_final:
                return
        except LedgerUnavailable as error:
            log.warning("waiting_for_the_ledger", task_id=task_id, reason=error.message)
        left = give_up - time.monotonic()
        if left <= 0:
            return
        await asyncio.sleep(min(left, LOOK_SECONDS))
