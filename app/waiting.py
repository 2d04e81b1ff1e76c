"""Waits for a task's end without holding a thread, for clients that want the video as the answer to their request."""

import asyncio
from collections.abc import Awaitable, Callable

from starlette.concurrency import run_in_threadpool

from app.deps import Services

# Between two looks into the ledger: a tenth of what was waited already, so that nobody waits much longer than needed.
SHORTEST_SECONDS, LONGEST_SECONDS = 0.1, 2.0


async def wait_for_end(
    services: Services, task_id: str, seconds: float, gives_up: Callable[[], Awaitable[bool]]
) -> None:
    """Until the task has ended, `seconds` are over, or whoever waits `gives_up`. Raises LedgerUnavailable."""
    clock = asyncio.get_running_loop().time
    begun = clock()
    while not (await run_in_threadpool(services.ledger.task, task_id)).status.is_final:
        waited = clock() - begun
        if waited >= seconds or await gives_up():
            return
        await asyncio.sleep(min(LONGEST_SECONDS, max(SHORTEST_SECONDS, waited / 10), seconds - waited))
