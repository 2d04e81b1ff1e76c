"""The examples in deploy/proxy, each in front of a real service: TLS, keys, links, and nothing secret in their logs."""

import os
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

from core.config.settings import Settings
from core.ledger.moves import Ledger
from harness.pictures import SAMPLES
from harness.servers import free_port, wait_until
from harness.stack import ROOT, running_stack
from harness.tls import certificate

NAME = "video.example.com"


def nginx(folder: Path, port: int, upstream: int) -> tuple[list[str], Path]:
    """The command that runs the example, and the log it writes. Of the example only what it tells one to change is
    changed: the name, the paths, and here the ports."""
    cert, key = certificate(folder)
    text = (ROOT / "deploy/proxy/nginx.conf").read_text()
    text = text.replace("listen 443 ssl", f"listen {port} ssl").replace("listen 80", f"listen {free_port()}")
    text = text.replace("127.0.0.1:8000", f"127.0.0.1:{upstream}").replace(
        "proxy_set_header Host $host;", HOST_AND_PORT
    )
    text = re.sub(r"/etc/letsencrypt\S+fullchain.pem", str(cert), text)
    text = re.sub(r"/etc/letsencrypt\S+privkey.pem", str(key), text)
    text = text.replace("/var/log/nginx/kinora.log", str(folder / "access.log")).replace(NAME, "localhost")
    folders = "".join(
        f"{kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "" if os.geteuid() else "user root;"  # whose folder it is
    (folder / "nginx.conf").write_text(
        f"{user} daemon off; pid {folder}/pid; error_log {folder}/error.log; events {{}}\nhttp {{ {folders} {text} }}"
    )
    return ["nginx", "-c", str(folder / "nginx.conf"), "-p", str(folder)], folder / "access.log"


# A test cannot have port 443, which a browser would leave out of the name.
HOST_AND_PORT = "proxy_set_header Host $http_host;"


def caddy(folder: Path, port: int, upstream: int) -> tuple[list[str], Path]:
    cert, key = certificate(folder)
    text = (ROOT / "deploy/proxy/Caddyfile").read_text()
    text = text.replace(f"{NAME} {{", f"localhost:{port} {{\n\ttls {cert} {key}").replace(":8000", f":{upstream}")
    text = text.replace("log {", f"log {{\n\t\toutput file {folder}/access.log")
    options = "{\n\tadmin off\n\tauto_https disable_redirects\n\tskip_install_trust\n"
    (folder / "Caddyfile").write_text(text.replace("{\n", options, 1))
    return ["caddy", "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"], folder / "access.log"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, str]]:
    """The port of a service that asks for keys, and a key."""
    folder = tmp_path_factory.mktemp("proxied")
    ledger = Ledger(Settings(_env_file=None, data_dir=folder / "data").resolved_database_url)
    ledger.migrate()
    _, key = ledger.keys.create("ann")
    ledger.close()
    with running_stack(folder, AUTH="keys") as stack:
        yield stack.port, key


@pytest.mark.parametrize("configure", [nginx, caddy])
def test_the_example_serves_over_tls_and_logs_no_secret(
    tmp_path: Path, service: tuple[int, str], configure: object
) -> None:
    if not os.environ.get("CI") and not shutil.which(configure.__name__):
        pytest.skip(f"no {configure.__name__} here")
    upstream, key = service
    port = free_port()
    command, log = configure(tmp_path, port, upstream)
    proxy = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        trusted = ssl.create_default_context(cafile=tmp_path / "cert.pem")
        with httpx2.Client(base_url=f"https://localhost:{port}", verify=trusted, timeout=60) as client:
            wait_until(lambda: answers(client), 30, configure.__name__)
            assert client.get("/tasks").status_code == 401
            headers = {"X-API-Key": key}
            made = client.post("/generate", files={"file": (SAMPLES / "cat.jpg").read_bytes()}, headers=headers)
            assert made.status_code == 202, made.text
            link = made.json()["result_url"]
            assert link.startswith(f"https://localhost:{port}/results/")
            follow(client, f"/status/{made.json()['task_id']}/events", headers)
            assert client.get(link).status_code == 200
            part = client.get(link, headers={"Range": "bytes=0-99"})
            assert (part.status_code, len(part.content)) == (206, 100)
            assert part.headers["strict-transport-security"] == "max-age=31536000"
            assert "server" not in part.headers or "/" not in part.headers["server"]
            assert client.post("/generate", files={"file": b"x" * 40_000_000}, headers=headers).status_code == 413
            client.get("/tasks", headers={"Authorization": f"Bearer {key}"})
    finally:
        proxy.terminate()
        proxy.wait(20)
    text = log.read_text()
    assert "/results/" in text
    assert key not in text
    assert urlsplit(link).query.partition("signature=")[2] not in text


def test_one_address_has_so_many_requests_at_a_time_behind_nginx(tmp_path: Path, service: tuple[int, str]) -> None:
    if not os.environ.get("CI") and not shutil.which("nginx"):
        pytest.skip("no nginx here")
    port = free_port()
    command, _ = nginx(tmp_path, port, service[0])
    proxy = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    trusted = ssl.create_default_context(cafile=tmp_path / "cert.pem")
    try:
        with (
            httpx2.Client(base_url=f"https://localhost:{port}", verify=trusted, timeout=60) as client,
            ExitStack() as held,
        ):
            wait_until(lambda: answers(client), 30, "nginx")
            for _ in range(100):
                plain = socket.create_connection(("localhost", port))
                connection = held.enter_context(trusted.wrap_socket(plain, server_hostname="localhost"))
                connection.sendall(b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n")
            wait_until(lambda: client.get("/health/live").status_code == 429, 20, "a refusal")
            held.close()
            wait_until(lambda: answers(client), 20, "an answer")
    finally:
        proxy.terminate()
        proxy.wait(20)


def follow(client: httpx2.Client, path: str, headers: dict[str, str]) -> None:
    """To the end; the first state must come while there is no other yet."""
    with client.stream("GET", path, headers=headers) as stream:
        assert stream.status_code == 200
        data = (line for line in stream.iter_lines() if line.startswith("data: "))
        assert '"queued"' in next(data)
        assert '"finished"' in list(data)[-1]


def answers(client: httpx2.Client) -> bool:
    try:
        return client.get("/health/live").status_code == 200
    except httpx2.TransportError:
        return False
