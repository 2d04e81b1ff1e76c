"""A small name server for a namespace of its own, in which it is the only one, and what Kinora says of its answers.

`python -m harness.name_server` must run as root of a fresh network and mount namespace (`unshare -rnm`): there it
brings up the loopback, makes itself the machine's resolver, fetches a picture from each name of ZONE, and prints what
came of it as JSON.
"""

import fcntl
import json
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from app.fetch import Fetcher
from core.config.settings import Settings
from core.errors import KinoraError

A, CNAME, AAAA = 1, 5, 28
OK, SERVFAIL, NXDOMAIN = 0, 2, 3
PUBLIC, INNER = "1.1.1.1", "10.0.0.1"
SIOCSIFFLAGS, IFF_UP, IFF_RUNNING = 0x8914, 0x1, 0x40

Record = tuple[int, bytes]


def v4(*addresses: str) -> list[Record]:
    return [(A, socket.inet_pton(socket.AF_INET, address)) for address in addresses]


def v6(*addresses: str) -> list[Record]:
    return [(AAAA, socket.inet_pton(socket.AF_INET6, address)) for address in addresses]


def alias(name: str) -> list[Record]:
    return [(CNAME, wire(name))]


def wire(name: str) -> bytes:
    labels = name.encode("latin-1").split(b".")
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


# Of each name the records, one answer after another, the last one again and again. None: it is not answered.
ZONE: dict[str, list[list[Record] | bytes | int | None]] = {
    "public.example": [v4(PUBLIC)],
    "empty.example": [[]],
    "unknown.example": [NXDOMAIN],
    "broken.example": [SERVFAIL],
    "junk.example": [b"\xff" * 40],
    "short.example": [b""],
    "hangs.example": [None],
    "loop.example": [alias("loop.example")],
    "ring-a.example": [alias("ring-b.example")],
    "ring-b.example": [alias("ring-a.example")],
    "alias-to-nothing.example": [alias("empty.example")],
    "alias-to-no-text.example": [alias("b\xfcro.\xff\xfe.example")],
    "alias-to-inner.example": [alias("inner.example") + v4(INNER)],
    "inner.example": [v4(INNER)],
    "mixed.example": [v4(PUBLIC, INNER)],
    "link.example": [v6("fe80::1")],
    "wrapped.example": [v6("::ffff:10.0.0.1")],
    "loopback.example": [v6("::1")],
    "changes.example": [v4(PUBLIC), v4(INNER)],
    "many.example": [v4(*(f"1.1.{block}.{host}" for block in range(8) for host in range(1, 200)))],
    "many-and-inner.example": [v4(*(f"1.1.{block}.1" for block in range(200)), INNER)],
    "too-long.example": [[(A, bytes(16))]],
    "too-short.example": [[(A, b"\x01")]],
}


class NameServer:
    """At port 53 of the loopback, over UDP and TCP."""

    def __init__(self) -> None:
        self.asked: dict[tuple[str, int], int] = {}
        self.datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.datagrams.bind(("127.0.0.1", 53))
        self.streams = socket.create_server(("127.0.0.1", 53))
        for serve in (self.serve_datagrams, self.serve_streams):
            threading.Thread(target=serve, daemon=True).start()

    def serve_datagrams(self) -> None:
        while True:
            question, address = self.datagrams.recvfrom(4096)
            if (answer := self.answer(question, most=1200)) is not None:
                self.datagrams.sendto(answer, address)

    def serve_streams(self) -> None:
        while True:
            connection, _ = self.streams.accept()
            with connection:
                while head := connection.recv(2):  # a resolver asks for both kinds of address on one
                    answer = self.answer(connection.recv(int.from_bytes(head, "big")), most=65_000) or b""
                    connection.sendall(struct.pack("!H", len(answer)) + answer)

    def answer(self, question: bytes, most: int) -> bytes | None:
        name, kind, end = asked_for(question)
        answers = ZONE.get(name, [NXDOMAIN])
        times = self.asked[name, kind] = self.asked.get((name, kind), 0) + 1
        said = answers[min(times, len(answers)) - 1]
        if said is None or isinstance(said, bytes):
            return said
        code, records = (said, []) if isinstance(said, int) else (OK, said)
        found = [(of, data) for of, data in records if of in (kind, CNAME)]
        body, owner = b"", b"\xc0\x0c"  # the name that was asked for
        for of, data in found:
            body += owner + struct.pack("!HHIH", of, 1, 0, len(data)) + data
            owner = data if of == CNAME else owner
        cut = len(body) > most  # then the resolver asks again, over TCP
        head = question[:2] + struct.pack(
            "!HHHHH", 0x8180 | code | (0x200 if cut else 0), 1, 0 if cut else len(found), 0, 0
        )
        return head + question[12:end] + (b"" if cut else body)


def asked_for(question: bytes) -> tuple[str, int, int]:
    """Return the name, the type, and where the question ends."""
    labels, at = [], 12
    while size := question[at]:
        labels.append(question[at + 1 : at + 1 + size].decode("latin-1").lower())
        at += 1 + size
    return ".".join(labels), int.from_bytes(question[at + 1 : at + 3], "big"), at + 5


def bring_up_loopback() -> None:
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh", b"lo", IFF_UP | IFF_RUNNING))


def become_resolver() -> None:
    told = Path(tempfile.mkdtemp()) / "resolv.conf"
    told.write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    subprocess.run(["mount", "--bind", str(told), "/etc/resolv.conf"], check=True)


def come_of(fetcher: Fetcher, name: str) -> str:
    """Return the code of the error, and its message."""
    try:
        with fetcher.fetched_picture(f"http://{name}/a.jpg", Settings(_env_file=None)):
            pass
    except KinoraError as error:
        return f"{error.code}: {error.message}"
    return "fetched"


if __name__ == "__main__":
    bring_up_loopback()
    become_resolver()
    NameServer()
    with_names = Fetcher()
    sys.stdout.write(json.dumps({name: [come_of(with_names, name) for _ in range(2)] for name in ZONE}))
