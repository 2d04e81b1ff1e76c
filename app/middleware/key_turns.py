"""How much is done for one key at a time. The event loop and its forty threads are everyone's: what comes behind
hundreds of another's requests would wait for all of them."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from weakref import WeakValueDictionary

from starlette.types import Message, Receive

AT_ONCE = 4


class KeyTurns:
    """Of each key as many at a time; the others wait, in their order, and hold no thread."""

    def __init__(self) -> None:
        self._turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    def of(self, key: str) -> asyncio.Semaphore:
        """Return what to hold for a turn of `key`."""
        return self._turns.setdefault(key, asyncio.Semaphore(AT_ONCE))


@contextmanager
def piece_by_piece(receive: Receive, turn: asyncio.Semaphore) -> Iterator[Receive]:
    """Yield what receives a body of which each piece but the last has a turn, until the next one is asked for."""
    with ExitStack() as held:

        async def receive_in_turn() -> Message:
            held.close()
            message = await receive()
            if message.get("more_body"):
                await turn.acquire()
                held.callback(turn.release)
            return message

        yield receive_in_turn
