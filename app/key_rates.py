"""How fast the bodies of one key come and go, all of its connections together: the event loop copies each byte, and
40 connections without a bound would leave it no time for anybody else."""

import asyncio
from collections import defaultdict

from starlette.types import Message, Receive, Send

BYTES_PER_SECOND = 60_000_000  # half of what a line of one gigabit carries
AT_ONCE_SECONDS = 0.3  # of it may come at once: as much as a large upload has


class KeyRate:
    def __init__(self) -> None:
        self._until: defaultdict[str, float] = defaultdict(float)
        """When what has come of each key is paid for, by the event loop's clock."""

    async def pay(self, key: str, message: Message) -> None:
        """Wait until the body in `message`, if there is any, may be worked on."""
        if not message.get("body"):
            return
        now = asyncio.get_running_loop().time()
        begun = max(self._until[key], now - AT_ONCE_SECONDS)
        self._until[key] = begun + len(message["body"]) / BYTES_PER_SECOND
        if self._until[key] > now:
            await asyncio.sleep(self._until[key] - now)

    def receiving(self, key: str, receive: Receive) -> Receive:
        async def receive_in_time() -> Message:
            message = await receive()
            await self.pay(key, message)
            return message

        return receive_in_time

    def sending(self, key: str, send: Send) -> Send:
        async def send_in_time(message: Message) -> None:
            await self.pay(key, message)
            await send(message)

        return send_in_time
