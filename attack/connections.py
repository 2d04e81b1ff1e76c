"""Connections of an attacker: those that ask as fast as they are answered, and those that only stay."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from attack.target import LOOPBACK, Target

PIECE_BYTES = 64 * 1024
RECONNECT_SECONDS = 0.2
TRICKLE_SECONDS = 1.0

Answers = Counter[int]
"""How many answers of each status an attacker got; 0: the connection ended without one."""


class Answer(NamedTuple):
    status: int
    body: bytes


async def ask(port: int, request: bytes) -> Answer:
    """Send all of `request` on a connection of its own, and return what came until the server closed it."""
    with suppress(ConnectionError):
        reader, writer = await asyncio.open_connection(LOOPBACK, port)
        with closing(writer):
            writer.write(request)
            head, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
            return Answer(int(head.split()[1]) if head else 0, body)
    return Answer(0, b"")


async def flood(target: Target, connections: int, request: Callable[[int], bytes]) -> Answers:
    """Send what `request` makes of a number that grows, each connection's next as soon as its last is answered."""
    answers, numbers = Answers(), itertools.count()

    async def go_on() -> None:
        while True:
            answers[(await ask(target.port, request(next(numbers)))).status] += 1

    await for_a_time(target.seconds, *(go_on() for _ in range(connections)))
    return answers


async def hold(
    target: Target, connections: int, request: bytes, more: bytes = b"", port: int | None = None, reads: bool = True
) -> Answers:
    """Keep connections open on which `request` was sent, and then `more` now and then; one that ends is opened again.
    Without `reads` no answer is taken off them."""
    answers = Answers()

    async def stay() -> None:
        while True:
            with suppress(OSError):
                reader, writer = await asyncio.open_connection(LOOPBACK, port or target.port, limit=PIECE_BYTES)
                with closing(writer):
                    writer.write(request)
                    reading = asyncio.create_task(discard(reader, answers) if reads else asyncio.sleep(target.seconds))
                    while not reading.done():
                        writer.write(more)
                        await asyncio.wait([reading], timeout=TRICKLE_SECONDS)
            await asyncio.sleep(RECONNECT_SECONDS)

    await for_a_time(target.seconds, *(stay() for _ in range(connections)))
    return answers


async def discard(reader: asyncio.StreamReader, answers: Answers) -> None:
    """Count the answer that comes, and read to its end."""
    with suppress(ConnectionError):
        head = await reader.readline()
        answers[int(head.split()[1]) if head else 0] += 1
        while await reader.read(PIECE_BYTES):
            pass


async def for_a_time(seconds: float, *work: Awaitable[None]) -> None:
    """Do all of `work`, which has no end, until the time is over."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await asyncio.gather(*work)


@contextmanager
def closing(writer: asyncio.StreamWriter) -> Iterator[None]:
    """Let the connection go at once at the end, whatever is left to send."""
    try:
        yield
    finally:
        writer.transport.abort()
