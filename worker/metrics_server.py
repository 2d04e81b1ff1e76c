"""The port at which a worker's metrics are read. Whoever else connects can hold neither its threads nor its files.

One thread answers. Each connection is for one request and has ANSWER_SECONDS, until the answer is read; one more than
MAX_CONNECTIONS closes the oldest.
"""

import asyncio
import io
import socket
import threading
from asyncio import StreamReader, StreamWriter
from contextlib import suppress

from prometheus_client import CollectorRegistry, MetricsHandler

MAX_CONNECTIONS = 16
ANSWER_SECONDS = 10.0  # a scraper needs a few milliseconds

BROKEN_OFF = (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError)  # TimeoutError is an OSError


class Exchange(MetricsHandler):
    """A request that has come, and its answer: both in memory."""

    def setup(self) -> None:
        self.rfile, self.wfile = io.BytesIO(self.request), io.BytesIO()

    def finish(self) -> None:
        self.wfile.seek(0)
        self.answer = self.wfile.read()


class MetricsServer:
    def __init__(self, registry: CollectorRegistry) -> None:
        self._exchange = Exchange.factory(registry)
        self._open: dict[StreamWriter, None] = {}  # the oldest first

    def start(self, host: str, port: int) -> None:
        """Raises OSError, if the port is taken say."""
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        both = family == socket.AF_INET6 and socket.has_dualstack_ipv6()  # at ::, IPv4 too
        listener = socket.create_server(address, family=family, dualstack_ipv6=both)
        threading.Thread(target=asyncio.run, args=[self._serve(listener)], name="metrics", daemon=True).start()

    async def _serve(self, listener: socket.socket) -> None:
        # asyncio takes up to `backlog` connections before it looks at any; the kernel may keep more of them waiting.
        server = await asyncio.start_server(self._take, sock=listener, backlog=MAX_CONNECTIONS)
        listener.listen()
        await server.serve_forever()

    async def _take(self, reader: StreamReader, writer: StreamWriter) -> None:
        if len(self._open) == MAX_CONNECTIONS:
            oldest = next(iter(self._open))
            oldest.transport.abort()
            del self._open[oldest]
        self._open[writer] = None
        try:
            with suppress(*BROKEN_OFF):
                async with asyncio.timeout(ANSWER_SECONDS):
                    await self._answer(reader, writer)
        finally:
            writer.transport.abort()  # unless it has ended
            self._open.pop(writer, None)

    async def _answer(self, reader: StreamReader, writer: StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(self._exchange(head, writer.get_extra_info("peername"), None).answer)
        writer.close()
        await writer.wait_closed()  # until all is sent
