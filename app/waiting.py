"""Follows a task without holding a thread, for clients that wait for the answer to their request."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress

from fastapi import Request

from app.concurrency import ConcurrencyLimit
from app.events import Ticker
from app.slow_clients import is_ending
from core.snapshots import Snapshot

# Each has a connection, and in memory or in the temporary folder what it sent.
WAITING = ConcurrencyLimit(64, "as many wait for the answer to their request as may at once")
LOOK_SECONDS = 1.0  # whether the service ends


async def follow(request: Request, task_id: str, seconds: float) -> AsyncGenerator[Snapshot, None]:
    """What is known of the task, at each change and each second, until it has ended, `seconds` are over or the service
    ends. To be closed by whoever leaves it before."""
    ticker: Ticker = request.app.state.ticker
    clock = asyncio.get_running_loop().time
    ends = clock() + seconds
    with ticker.listen(task_id) as watched:
        while (left := ends - clock()) > 0 and not is_ending(request):
            changed, snapshot = watched.changed, watched.snapshot
            if snapshot:
                yield snapshot
                if snapshot.status.is_final:
                    return
            with suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), min(left, LOOK_SECONDS))
