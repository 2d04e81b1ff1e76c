"""Downloads by slow clients, from a real server, while the task is deleted or the storage fails."""

import asyncio
import contextlib
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import httpx2
import pytest
import uvicorn

from app.main import create_app
from app.middleware.slow_clients import BoundedHttp
from app.services import Services
from core.config.settings import Settings
from core.storage import Storage, artifact_key
from harness.servers import wait_until
from keeper.main import Keeper
from tests.conftest import artifacts_at, new_task

VIDEO = os.urandom(1 << 16) * 500  # 33 MB: more than what lies in buffers on the way


@pytest.fixture
def http() -> type[asyncio.Protocol] | str:
    return BoundedHttp


@pytest.fixture
def server(settings: Settings, storage: Storage, http: type[asyncio.Protocol] | str) -> Iterator[uvicorn.Server]:
    """One that keeps its files in a folder and in S3, in turn."""
    app = create_app(settings)
    config = uvicorn.Config(app, port=0, http=http, log_config=None, access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started, 30, "the server")
    app.state.services = replace(app.state.services, storage=storage)
    yield server
    server.should_exit = True
    thread.join(30)


@pytest.fixture
def services(server: uvicorn.Server) -> Services:
    found: Services = server.config.loaded_app.app.state.services
    return found


@pytest.fixture
def task_id(services: Services) -> str:
    """Of a finished task with VIDEO."""
    ((step_id, _),) = services.ledger.create(new := replace(new_task(), params={"seed": 1}))
    claim = services.ledger.claim(step_id, "w", 60)
    assert claim is not None
    key = artifact_key(new.task_id, step_id, claim.step.attempt, "video.mp4")
    services.storage.put(key, VIDEO)
    services.ledger.finish(claim, artifacts_at(video=key), {}, {})
    return new.task_id


def delete(services: Services, url: str, task_id: str) -> None:
    assert httpx2.delete(f"{url}/tasks/{task_id}").status_code == 200


def expire(services: Services, url: str, task_id: str) -> None:
    settings = services.settings.model_copy(update={"result_ttl": 0.0})
    Keeper(settings, services.ledger, services.storage, services.queue).delete_expired()


ROUTES = ["/results/{}", "/v1/videos/{}/content", "/v2beta/image-to-video/result/{}"]


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("take_away", [delete, expire])
def test_a_download_goes_on_to_its_end_although_its_task_is_deleted(
    server: uvicorn.Server,
    services: Services,
    task_id: str,
    take_away: Callable[[Services, str, str], None],
    path: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with begun(server, path.format(task_id)) as (connection, head):
        assert head.startswith(b"HTTP/1.1 200")
        take_away(services, url_of(server), task_id)
        assert list(services.storage.task_ids()) == []
        assert rest_of(connection) == VIDEO
    assert httpx2.get(f"{url_of(server)}{path.format(task_id)}").status_code in (404, 410)
    assert said_as_a_fault(caplog) == []


def test_a_part_of_a_video_comes_to_its_end_too(server: uvicorn.Server, services: Services, task_id: str) -> None:
    with begun(server, f"/results/{task_id}", b"Range: bytes=1000000-31999999\r\n") as (connection, head):
        assert head.startswith(b"HTTP/1.1 206")
        delete(services, url_of(server), task_id)
        assert rest_of(connection) == VIDEO[1_000_000:32_000_000]


@pytest.mark.parametrize("storage", ["folder"], indirect=True)
def test_a_download_that_cannot_go_on_is_broken_off_without_a_trace(
    server: uvicorn.Server, services: Services, task_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    with begun(server, f"/results/{task_id}") as (connection, _):
        lose_most(services, task_id)
        assert len(rest_of(connection)) < len(VIDEO), "which its client sees by Content-Length"
    assert said_as_a_fault(caplog) == []
    assert "answer_broken_off" in caplog.text


@pytest.mark.parametrize("http", ["httptools", "h11"])
@pytest.mark.parametrize("storage", ["folder"], indirect=True)
def test_a_download_that_cannot_go_on_is_broken_off_for_its_reason_by_another_server(
    server: uvicorn.Server, services: Services, task_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    with begun(server, f"/results/{task_id}") as (connection, _):
        lose_most(services, task_id)
        assert len(rest_of(connection)) < len(VIDEO)
    wait_until(lambda: said_as_a_fault(caplog), what="the server's own words")
    assert "StorageUnavailable" in caplog.text
    assert "AttributeError" not in caplog.text


def lose_most(services: Services, task_id: str) -> None:
    os.truncate(services.storage._folder / services.ledger.artifacts(task_id)["video"].key, 1_000_000)


def url_of(server: uvicorn.Server) -> str:
    return f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"


@contextlib.contextmanager
def begun(server: uvicorn.Server, path: str, headers: bytes = b"") -> Iterator[tuple[socket.socket, bytes]]:
    """A download of which only the head has been read."""
    with socket.socket() as connection:
        connection.settimeout(30)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(server.servers[0].sockets[0].getsockname())
        line = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n".encode()
        connection.sendall(line + headers + b"\r\n")
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += connection.recv(1)
        yield connection, head


def rest_of(connection: socket.socket) -> bytes:
    found = bytearray()
    while piece := connection.recv(1 << 20):
        found += piece
    return bytes(found)


def said_as_a_fault(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR or record.exc_info]
