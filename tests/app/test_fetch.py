"""Fetching a picture from hosts that mean no good. All of them are real servers; only the resolver is not."""

import gzip
import hashlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app import fetch as fetching
from app.fetch import AT_ONCE, Fetcher
from app.main import create_app
from app.services import Services
from core.config.settings import Settings
from core.errors import DestinationForbidden, FetchFailed, QueueFull, UploadTooLarge
from core.outbound import MOST_TRIED
from core.storage import input_key
from harness.hostile import PRIVATE, PUBLIC, Host, Resolver, answered, hosting, pretend_public, tls_pair
from harness.pictures import CAT, png
from harness.servers import free_port, wait_until
from sandbox.pictures import read_picture

PICTURE, FETCHER = answered(CAT), Fetcher()


def fetch(url: str, settings: Settings, owner: str = "") -> bytes:
    with FETCHER.fetched_picture(url, settings, owner) as picture:
        return picture


def settings_for(*hosts: Host, **more: object) -> Settings:
    return Settings(_env_file=None, fetch_allow=",".join(host.netloc for host in hosts), **more)


def fails(host: Host, url: str | None = None) -> str:
    with pytest.raises(FetchFailed) as caught:
        fetch(url or host.url, settings_for(host))
    assert caught.value.param == "image_url"
    return caught.value.message


@pytest.fixture(autouse=True)
def _short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "FETCH_SECONDS", 1.0)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_picture_is_fetched_from_an_allowed_host(address: str) -> None:
    with hosting(PICTURE, address) as host:
        assert fetch(host.url, settings_for(host)) == CAT
        (request,) = host.requests
    assert request.startswith("GET /picture HTTP/1.1\r\n")
    assert f"host: {host.netloc}\r\n" in request.lower()
    assert "accept-encoding: identity\r\n" in request.lower()


def test_a_host_of_this_machine_that_is_not_allowed_is_not_asked() -> None:
    with hosting(PICTURE) as host:
        with pytest.raises(DestinationForbidden):
            fetch(host.url, Settings(_env_file=None))
        assert host.requests == []


def test_a_name_that_changes_its_address_after_it_was_judged_gains_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with hosting(PICTURE, PUBLIC) as first, hosting(answered(b"secret"), PRIVATE, first.port) as inner:
        pretend_public(monkeypatch, first.port)
        resolver = Resolver(monkeypatch, [PUBLIC], [PRIVATE])
        assert fetch(f"http://rebind.example:{first.port}/a", Settings(_env_file=None)) == CAT
        assert resolver.asked == ["rebind.example"], "the resolver is asked once"
        assert f"host: rebind.example:{first.port}\r\n" in first.requests[0].lower()
        with pytest.raises(DestinationForbidden):
            fetch(f"http://rebind.example:{first.port}/a", Settings(_env_file=None))
        assert (len(first.requests), inner.requests) == (1, [])


@pytest.mark.parametrize("answer", [[PUBLIC, PRIVATE], [PRIVATE, PUBLIC], [PUBLIC, "::1"], ["::ffff:127.0.0.1"]])
def test_a_name_with_one_private_address_is_not_connected_to(
    monkeypatch: pytest.MonkeyPatch, answer: list[str]
) -> None:
    with hosting(PICTURE, PUBLIC) as outer, hosting(PICTURE, PRIVATE, outer.port) as inner:
        pretend_public(monkeypatch, outer.port)
        Resolver(monkeypatch, answer)
        with pytest.raises(DestinationForbidden):
            fetch(f"http://mixed.example:{outer.port}/", Settings(_env_file=None))
        assert outer.requests == inner.requests == []


def test_where_one_address_does_not_answer_the_next_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with hosting(PICTURE, PUBLIC) as host:
        Resolver(monkeypatch, ["127.0.0.3", PUBLIC])
        allowed = Settings(_env_file=None, fetch_allow=f"two.lan:{host.port}")
        assert fetch(f"http://two.lan:{host.port}/", allowed) == CAT


@pytest.mark.parametrize("answer", [[], ["no address"], [""], [PUBLIC, "fe80::1%"]])
def test_what_is_no_address_is_a_failed_fetch(monkeypatch: pytest.MonkeyPatch, answer: list[str]) -> None:
    Resolver(monkeypatch, answer)
    with pytest.raises(FetchFailed, match="its host has no address"):
        fetch("http://empty.example/", Settings(_env_file=None))


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), UnicodeError("label empty or too long")])
def test_a_resolver_that_breaks_is_a_failed_fetch(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def breaks(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(socket, "getaddrinfo", breaks)
    with pytest.raises(FetchFailed, match="its host has no address"):
        fetch("http://broken.example/", Settings(_env_file=None))


@pytest.mark.parametrize("address", ["fe80::1%lo", "fe80::1%1", "2606:4700::1%lo"])
def test_an_address_of_one_interface_is_not_connected_to(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    Resolver(monkeypatch, [address])
    with pytest.raises(DestinationForbidden):
        fetch("http://scoped.example/", Settings(_env_file=None))


def test_of_a_name_with_many_addresses_a_few_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = MOST_TRIED - 1
    with hosting(PICTURE, PUBLIC) as host:
        silent = [f"127.0.1.{number}" for number in range(1, 100)]  # where nobody listens
        allowed = Settings(_env_file=None, fetch_allow=f"many.lan:{host.port}")
        Resolver(monkeypatch, [*silent[:tried], PUBLIC, *silent[tried:]])
        assert fetch(f"http://many.lan:{host.port}/", allowed) == CAT
        Resolver(monkeypatch, [*silent, PUBLIC])
        with pytest.raises(FetchFailed, match="ConnectError"):
            fetch(f"http://many.lan:{host.port}/", allowed)
        assert len(host.requests) == 1


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
def test_a_redirect_is_not_followed(address: str, status: str) -> None:
    with hosting(PICTURE, address) as inner, hosting(answered(b"", status, location=inner.url), address) as outer:
        with pytest.raises(FetchFailed) as caught:
            fetch(outer.url, settings_for(outer, inner))
        assert caught.value.message == f"image_url could not be fetched: it answered {status[:3]}"
        assert (len(outer.requests), inner.requests) == (1, [])


@pytest.mark.parametrize("status", ["204 No Content", "206 Partial Content", "401 No", "404 Not Found", "500 Broken"])
def test_what_is_no_success_is_said_without_its_body(status: str) -> None:
    with hosting(answered(b"secret", status)) as host:
        assert fails(host).endswith(f"it answered {status[:3]}")


def dribble(first: bytes, again: bytes) -> Callable[[socket.socket], None]:
    def talk(connection: socket.socket) -> None:
        connection.sendall(first)
        while True:
            connection.sendall(again)
            time.sleep(0.05)

    return talk


@pytest.mark.parametrize(
    ("first", "again"),
    [
        (b"", b""),
        (b"HTTP/1.1 200 OK\r\nx: ", b"a"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n", b"\xff"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"1\r\n\xff\r\n"),
        (b"HTTP/1.1 200 OK\r\n\r\n", b"\xff"),
    ],
)
def test_a_host_that_says_a_little_at_a_time_is_left(first: bytes, again: bytes) -> None:
    with hosting(dribble(first, again)) as host:
        assert fails(host).endswith("it took more than 1 s")


def test_a_resolver_that_hangs_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    def hangs(*_: object, **__: object) -> None:
        released.wait(30)
        raise socket.gaierror("nobody answers")

    monkeypatch.setattr(socket, "getaddrinfo", hangs)
    with pytest.raises(FetchFailed, match="it took more than"):
        fetch("https://slow.example/", Settings(_env_file=None))
    released.set()
    with pytest.raises(FetchFailed, match="its host has no address"):
        fetch("https://slow.example/", Settings(_env_file=None))


def endless(head: bytes, part: bytes) -> tuple[Callable[[socket.socket], None], list[int]]:
    sent = [0]

    def talk(connection: socket.socket) -> None:
        connection.sendall(head)
        while True:
            connection.sendall(part)
            sent[0] += len(part)

    return talk, sent


@pytest.mark.parametrize(
    ("head", "part"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", bytes(65536)),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"10000\r\n" + bytes(65536) + b"\r\n"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n", bytes(65536)),
    ],
)
def test_a_body_without_an_end_is_read_up_to_the_limit(head: bytes, part: bytes) -> None:
    talk, sent = endless(head, part)
    with hosting(talk) as host, pytest.raises(UploadTooLarge) as caught:
        fetch(host.url, settings_for(host, max_upload_mb=1))
    assert caught.value.param == "image_url"
    assert sent[0] < 20_000_000, "what the kernel's buffers hold comes on top of the limit"


def test_a_head_without_an_end_is_not_read_to_the_end() -> None:
    talk, sent = endless(b"HTTP/1.1 200 OK\r\n", b"x: " + bytes(4000).replace(b"\0", b"a") + b"\r\n")
    with hosting(talk) as host:
        assert "the connection failed" in fails(host)
    assert sent[0] < 20_000_000


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nabcdef",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: " + 5000 * b"9" + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nno header\r\n\r\n",
        b"HTTP/9.9 OK\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"+OK\r\n\r\n",
        b"\x00\xff\r\n\r\n",
        b"",
    ],
    ids=range(11),
)
def test_a_host_that_lies_or_speaks_another_language_is_a_failed_fetch(answer: bytes) -> None:
    with hosting(lambda connection: connection.sendall(answer)) as host:
        assert "the connection failed" in fails(host)


def test_what_follows_the_length_that_was_said_is_not_read() -> None:
    with hosting(answered(CAT + b"more", content_length=str(len(CAT)))) as host:
        assert fetch(host.url, settings_for(host)) == CAT


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "identity, gzip"])
def test_what_comes_compressed_is_not_unpacked(encoding: str) -> None:
    with hosting(answered(gzip.compress(bytes(10_000_000)), content_encoding=encoding)) as host:
        assert "compressed" in fails(host)


def test_no_proxy_and_no_netrc_has_a_say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text("default login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with hosting(PICTURE) as host, hosting(PICTURE) as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://{proxy.netloc}")
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name)
        assert fetch(host.url, settings_for(host)) == CAT
        assert proxy.requests == []
        assert "authorization" not in host.requests[0].lower()


def test_a_certificate_must_be_for_the_name_and_not_for_the_address(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shown, trusting = tls_pair(tmp_path, "pictures.example")
    monkeypatch.setattr(fetching, "_tls", lambda: trusting)
    with hosting(PICTURE, PUBLIC, tls=shown) as host:
        pretend_public(monkeypatch, host.port)
        Resolver(monkeypatch, [PUBLIC])
        assert fetch(f"https://pictures.example:{host.port}/", Settings(_env_file=None)) == CAT
        for other in ("other.example", PUBLIC):
            with pytest.raises(FetchFailed, match="ConnectError"):
                fetch(f"https://{other}:{host.port}/", Settings(_env_file=None))
        assert len(host.requests) == 1


def test_no_more_are_fetched_at_once_than_may_be() -> None:
    with hosting(dribble(b"", b"")) as host, hosting(PICTURE) as quick, ThreadPoolExecutor(20) as pool:
        asked = [pool.submit(fetch, host.url, settings_for(host)) for _ in range(20)]
        kinds = sorted(type(each.exception()).__name__ for each in asked)
        assert kinds == ["FetchFailed"] * AT_ONCE + ["QueueFull"] * (20 - AT_ONCE)
        assert {each.exception().retry_after > 0 for each in asked if isinstance(each.exception(), QueueFull)} == {True}
        assert fetch(quick.url, settings_for(quick)) == CAT, "their places are free again"


def test_one_key_gets_half_of_the_places() -> None:
    with hosting(dribble(b"", b"")) as host, hosting(PICTURE) as quick, ThreadPoolExecutor(AT_ONCE) as pool:
        asked = [pool.submit(fetch, host.url, settings_for(host), "ann") for _ in range(AT_ONCE)]
        wait_until(lambda: sum(each.done() for each in asked) == AT_ONCE // 2, what="refusals")
        assert fetch(quick.url, settings_for(quick), "bob") == CAT
        kinds = sorted(type(each.exception()).__name__ for each in asked)
        assert kinds == ["FetchFailed"] * (AT_ONCE // 2) + ["QueueFull"] * (AT_ONCE // 2)


@pytest.fixture
def source() -> Iterator[Host]:
    with hosting(PICTURE) as host:
        yield host


@pytest.fixture
def client(settings: Settings, source: Host) -> Iterator[TestClient]:
    """An API server that may fetch from `source` and from nowhere else on this machine."""
    settings = settings.model_copy(update={"fetch_allow": source.netloc, "max_upload_mb": 1})
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield client


def ask(client: TestClient, url: str, **fields: object) -> tuple[int, dict[str, str]]:
    response = client.post("/generate", data={"image_url": url, **fields})
    return response.status_code, response.json() if response.status_code == 202 else response.json()["error"]


def test_a_task_is_made_from_a_picture_that_was_fetched(client: TestClient, source: Host) -> None:
    status, body = ask(client, source.url, fps=9)
    assert status == 202
    services: Services = client.app.state.services
    task, _ = services.ledger.task_with_steps(body["task_id"])
    assert services.ledger.inputs(task.task_id)["picture"].sha256 == hashlib.sha256(CAT).hexdigest()
    stored = services.storage.read(input_key(task.task_id, "picture"))
    assert read_picture(stored, 50).size == read_picture(CAT, 50).size


@pytest.mark.parametrize("field", ["file", "image", "image_url"])
def test_a_url_is_known_by_its_beginning_in_capitals_in_quotes_and_behind_spaces(
    client: TestClient, source: Host, field: str
) -> None:
    capitals = source.url.replace("http", "HTTP")
    for url in (capitals, capitals.capitalize(), f" {source.url}\n", f'"{source.url}"'):
        assert client.post("/generate", json={field: url}).status_code == 202
    assert len(source.requests) == 4


@pytest.mark.parametrize("field", ["file", "image", "image_url"])
def test_what_is_wrong_with_a_url_is_said_of_the_field_it_came_in(client: TestClient, field: str) -> None:
    with hosting(answered(b"", "404 Not Found")) as host, hosting(answered(b"no picture")) as other:
        services: Services = client.app.state.services
        changed = services.settings.model_copy(update={"fetch_allow": f"{host.netloc},{other.netloc}"})
        client.app.state.services = replace(services, settings=changed)
        asked = (host.url, other.url, "http://127.0.0.1/", "http://", "https://example.com/a cat.jpg")
        errors = [client.post("/generate", json={field: url}).json()["error"] for url in asked]
    assert [error["param"] for error in errors] == [field] * len(asked)
    assert all(error["message"].startswith(f"{field} ") for error in errors), errors


def test_a_request_sent_again_is_not_fetched_again(client: TestClient, source: Host) -> None:
    asked = {"data": {"image_url": source.url}, "headers": {"Idempotency-Key": "k"}}
    first = client.post("/generate", **asked)
    source.server.shutdown()
    source.server.server_close()
    again = client.post("/generate", **asked)
    assert (first.status_code, again.json()["task_id"]) == (202, first.json()["task_id"])


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1/", "http://127.1/", "http://0177.0.0.1/", "http://2130706433/", "http://0x7f000001/",
     "http://①②⑦.⓪.⓪.①/", "http://localhost/", "http://127.0.0.1./", "http://0/", "http://[::1]/", "http://[::]/",
     "http://[::ffff:127.0.0.1]/", "http://[::127.0.0.1]/", "http://[64:ff9b::7f00:1]/", "http://[2002:7f00:1::]/",
     "http://[fec0::1]/", "http://[fe80::1%25eth0]/", "http://[fd00:ec2::254]/", "http://168.63.129.16/",
     "http://169.254.169.254/latest/meta-data/", "http://100.100.100.200/", "http://192.0.0.192/", "http://10.0.0.1/",
     "http://192.168.1.1/", "http://172.16.0.1/", "http://8.8.8.8:6379/", "http://127.0.0.1:6379/"],
)  # fmt: skip
def test_an_attack_on_what_is_inside_is_refused_wherever_a_url_is_taken(client: TestClient, url: str) -> None:
    asked = [ask(client, url)]
    callback = client.post("/generate", files={"file": CAT}, data={"callback_url": url.replace("http:", "https:")})
    endpoint = client.post("/webhooks", json={"url": url.replace("http:", "https:")})
    asked += [(response.status_code, response.json()["error"]) for response in (callback, endpoint)]
    assert [(status, error["code"]) for status, error in asked] == [(422, "destination_forbidden")] * 3
    assert [error["param"] for _, error in asked] == ["image_url", "callback_url", "url"]
    assert client.get("/tasks").json()["tasks"] == []


def test_a_picture_that_cannot_be_fetched_is_a_422(client: TestClient, source: Host) -> None:
    source.server.shutdown()
    source.server.server_close()
    status, error = ask(client, source.url)
    assert (status, error["code"], error["param"]) == (422, "fetch_failed", "image_url")


@pytest.mark.parametrize(
    ("body", "refusal"),
    [
        (b"ffconcat version 1.0\nfile /etc/passwd\n", (415, "image_unsupported")),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", (415, "image_unsupported")),
        (b"", (415, "image_unsupported")),
        (CAT[: len(CAT) // 2], (422, "image_unreadable")),
        (png(12_000, 12_000), (422, "image_too_large")),
        (bytes(1_000_001), (413, "upload_too_large")),
    ],
    ids=range(6),
)
def test_what_was_fetched_is_judged_like_an_upload(client: TestClient, body: bytes, refusal: tuple[int, str]) -> None:
    with hosting(answered(body, content_type="image/png")) as host:
        services: Services = client.app.state.services
        changed = services.settings.model_copy(update={"fetch_allow": host.netloc})
        client.app.state.services = replace(services, settings=changed)
        status, error = ask(client, host.url)
    assert (status, error["code"]) == refusal
    assert client.get("/tasks").json()["tasks"] == []


def test_nothing_is_fetched_for_a_request_that_is_wrong_anyway(client: TestClient, source: Host) -> None:
    assert ask(client, source.url, fps=1000)[0] == 422
    assert ask(client, source.url, engine="sora")[0] == 422
    assert ask(client, source.url, callback_url="https://10.0.0.1/")[0] == 422
    both = client.post("/generate", files={"file": CAT}, data={"image_url": source.url})
    assert (both.status_code, both.json()["error"]["param"]) == (422, "image_url")
    assert source.requests == []


def test_nothing_is_fetched_for_a_caller_who_has_no_room(client: TestClient, source: Host) -> None:
    services: Services = client.app.state.services
    one_a_key = services.settings.model_copy(update={"max_waiting_per_key": 1})
    client.app.state.services = replace(services, settings=one_a_key)
    client.headers["X-API-Key"] = services.ledger.keys.create("ann")[1]
    assert ask(client, source.url)[0] == 202
    status, error = ask(client, source.url)
    assert (status, error["code"]) == (429, "quota_exceeded")
    assert len(source.requests) == 1


def test_a_host_that_nobody_answers_for_is_a_failed_fetch() -> None:
    port = free_port()
    with pytest.raises(FetchFailed, match="ConnectError"):
        fetch(f"http://127.0.0.1:{port}/", Settings(_env_file=None, fetch_allow=f"127.0.0.1:{port}"))


def test_where_one_address_says_nothing_the_next_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "FETCH_SECONDS", 20.0)
    monkeypatch.setattr(fetching, "CONNECT_SECONDS", 0.3)
    with hosting(PICTURE, PUBLIC) as host, socket.socket() as silent, ExitStack() as waiting:
        silent.bind(("127.0.0.3", host.port))
        silent.listen(0)  # and accepts nobody: once this many wait, the kernel answers no more
        for _ in range(3):
            first = waiting.enter_context(socket.socket())
            first.setblocking(False)
            first.connect_ex(("127.0.0.3", host.port))
        Resolver(monkeypatch, ["127.0.0.3", PUBLIC])
        allowed = Settings(_env_file=None, fetch_allow=f"two.lan:{host.port}")
        assert fetch(f"http://two.lan:{host.port}/", allowed) == CAT
