"""A TCP proxy that breaks connections on demand, to stand between the service and a real server."""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator


class Proxy:
    """`refuse`: closes at once. `hang`: takes everything, answers nothing. `reset_after`: so many bytes of the client
    are passed on, then its connection is reset; for the next `resets` connections."""

    def __init__(self, port: int) -> None:
        self.server_port, self.refuse, self.hang, self.resets, self.reset_after = port, False, False, 0, 0
        self.connections = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed: the test is over
            while True:
                client, _ = self.listener.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=[client], daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        if self.refuse:
            client.close()
            return
        limit = None
        if self.resets:
            self.resets, limit = self.resets - 1, self.reset_after
        with client, socket.create_connection(("127.0.0.1", self.server_port)) as server:
            back = threading.Thread(target=self._pump, args=[server, client, None], daemon=True)
            back.start()
            self._pump(client, server, limit)
            if limit is not None:  # RST instead of FIN
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return
            back.join()

    def _pump(self, source: socket.socket, target: socket.socket, limit: int | None) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := source.recv(4096):
                while self.hang:
                    time.sleep(0.01)
                target.sendall(data)
                passed += len(data)
                if limit is not None and passed >= limit:
                    return
            target.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def proxy_to(port: int) -> Iterator[Proxy]:
    proxy = Proxy(port)
    try:
        yield proxy
    finally:
        proxy.hang = False
        proxy.listener.close()
