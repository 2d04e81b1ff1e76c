"""Hosts and resolvers as attackers run them: real servers on this machine, and answers that change."""

import contextlib
import datetime
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

# Stands for an address in the Internet: this machine answers there, and `pretend_public` has it judged so.
PUBLIC, PRIVATE = "127.0.0.2", "127.0.0.1"


class Host:
    """Reads the head of each request, then says `answer`: bytes, or what talks to the connection itself."""

    def __init__(
        self,
        answer: bytes | Callable[[socket.socket], None],
        address: str = PRIVATE,
        port: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.requests: list[str] = []
        host = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError), wrapped(self.request) as connection:
                    while head := read_head(connection):
                        host.requests.append(head.decode("latin-1"))
                        if not isinstance(answer, bytes):
                            answer(connection)
                            return
                        connection.sendall(answer)

        def wrapped(connection: socket.socket) -> socket.socket:
            return tls.wrap_socket(connection, server_side=True) if tls else connection

        class Server(socketserver.ThreadingTCPServer):
            address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
            allow_reuse_address = daemon_threads = True

        self.server = Server((address, port), Handler)
        self.port = int(self.server.server_address[1])
        self.netloc = f"[{address}]:{self.port}" if ":" in address else f"{address}:{self.port}"
        self.url = f"http://{self.netloc}/picture"


def read_head(connection: socket.socket) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head:
        part = connection.recv(65536)
        if not part:
            return b""
        head += part
    return head


@contextlib.contextmanager
def hosting(answer: bytes | Callable[[socket.socket], None], *where: Any, **how: Any) -> Iterator[Host]:
    host = Host(answer, *where, **how)
    threading.Thread(target=host.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield host
    finally:
        host.server.shutdown()
        host.server.server_close()


def answered(body: bytes, status: str = "200 OK", **headers: str) -> bytes:
    headers = {"content-length": str(len(body))} | {name.replace("_", "-"): text for name, text in headers.items()}
    head = "".join(f"{name}: {text}\r\n" for name, text in headers.items())
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body


def pretend_public(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    """PUBLIC counts as public, and `port` as one of the web. All else is judged as ever."""
    from core import outbound

    judge = outbound.is_public
    monkeypatch.setattr(outbound, "is_public", lambda address: str(address) == PUBLIC or judge(address))
    monkeypatch.setattr(outbound, "PORTS", outbound.PORTS | {"": port})


class Resolver:
    """Takes getaddrinfo's place: each question gets the next of `answers`, and the last one from then on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> None:
        self.asked: list[str] = []
        self.answers = list(answers)
        monkeypatch.setattr(socket, "getaddrinfo", self.resolve)

    def resolve(self, host: str, port: int, *_: object, **__: object) -> list[Any]:
        self.asked.append(host)
        found = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [
            (socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in found
        ]


def tls_pair(folder: Path, *names: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """What a server for `names` shows, and what a client takes that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    public, private = folder / "certificate.pem", folder / "key.pem"
    public.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    shown = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    shown.load_cert_chain(public, private)
    return shown, ssl.create_default_context(cafile=str(public))
