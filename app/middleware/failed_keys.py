"""What requests without a valid key may cost those with one. They alone are counted, by the address that they come
from, and refused: behind a proxy many callers have one address, and a valid key opens whatever others there send.

Each process counts for itself.
"""

import asyncio
import hashlib
import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import anyio
from fastapi import Request

from core.errors import KinoraError, RateLimited, Unauthorized

MOST_FAILURES, WINDOW_SECONDS = 100, 60.0
MOST_ADDRESSES = MOST_KNOWN = 10_000
LOOK_UPS = 2  # threads in which keys are looked up that opened nothing lately; the rest of the 40 is for the others
PAUSE_SECONDS = 1.0  # before a caller with too many failures is answered: he could send the next one at once
MOST_PAUSED = 256  # each has a connection

Result = TypeVar("Result")
Key = TypeVar("Key")
Value = TypeVar("Value")


class FailedKeys:
    def __init__(self) -> None:
        self._failures: OrderedDict[str, tuple[float, int]] = OrderedDict()
        """By address, when its window ends and how many there were; the oldest first."""
        self._known: OrderedDict[bytes, None] = OrderedDict()
        """Digests of keys that opened something lately."""
        self._look_ups = anyio.CapacityLimiter(LOOK_UPS)
        self._paused = 0

    async def look_up(self, text: str | None, do: Callable[[Request], Result], request: Request) -> Result:
        """Return what `do` does in a thread: where the text of a key is not known, in one of a few. Raises what it
        does, and RateLimited in place of Unauthorized where too many came before it."""
        known = hashlib.sha256((text or "").encode()).digest()
        lane = None if text is None or known in self._known else self._look_ups
        try:
            result = await anyio.to_thread.run_sync(partial(do, request), limiter=lane)
        except Unauthorized as error:
            self._known.pop(known, None)
            raise await self._refusal(request, error) from error
        if text is not None:
            remember(self._known, known, None, MOST_KNOWN)
        return result

    async def _refusal(self, request: Request, error: Unauthorized) -> KinoraError:
        seconds = self._count(address_of(request))
        if seconds is None:
            return error
        if self._paused < MOST_PAUSED:
            self._paused += 1
            try:
                await asyncio.sleep(PAUSE_SECONDS)
            finally:
                self._paused -= 1
        message = f"too many requests without a valid key came from this address, and in this one: {error.message}"
        return RateLimited(message, retry_after=math.ceil(seconds))

    def _count(self, address: str) -> float | None:
        """Count one more. Return for how many seconds more are too many, if they are."""
        ends, count = self._failures.get(address, (0.0, 0))
        if (now := time.monotonic()) >= ends:
            ends, count = now + WINDOW_SECONDS, 0
        remember(self._failures, address, (ends, count + 1), MOST_ADDRESSES)
        return ends - now if count >= MOST_FAILURES else None


def remember(kept: OrderedDict[Key, Value], key: Key, value: Value, most: int) -> None:
    """Keep it as the newest, and forget the oldest beyond `most`."""
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > most:
        kept.popitem(last=False)


def address_of(request: Request) -> str:
    """Return the caller's address, of IPv6 the network that one customer has: its other addresses are his too."""
    host = request.client.host if request.client else ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host[:100]
    address = getattr(address, "ipv4_mapped", None) or address
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
