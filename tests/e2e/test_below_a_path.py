"""The service below a path of another site, behind a real nginx: one that takes the path away, one that leaves it."""

import os
import re
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urljoin, urlsplit

import httpx2
import pytest

from core.config.settings import Settings
from core.ledger.moves import Ledger
from harness.pictures import SAMPLES
from harness.receiver import Receiver, receiving
from harness.servers import free_port, wait_until
from harness.stack import running_stack
from tests.e2e.test_proxies import answers, follow, nginx

CAT = (SAMPLES / "cat.jpg").read_bytes()
SMALL = {"width": "64", "height": "64", "num_frames": "2"}


class Below(NamedTuple):
    url: str
    client: httpx2.Client
    stranger: httpx2.Client
    """Without a key."""
    receiver: Receiver
    direct: str
    """The service itself, without the proxy."""


def nginx_below(folder: Path, port: int, upstream: int, strips: bool) -> list[str]:
    """The command that runs the example, with the two lines changed that it says to change for a path."""
    command, _ = nginx(folder, port, upstream)
    path = folder / "nginx.conf"
    text = path.read_text().replace("location / {", "location /kinora/ {")
    path.write_text(text.replace(f"127.0.0.1:{upstream};", f"127.0.0.1:{upstream}{'/' * strips};"))
    return command


@contextmanager
def running(command: list[str]) -> Iterator[None]:
    proxy = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        proxy.terminate()
        proxy.wait(20)


def key_of_ann(folder: Path) -> tuple[str, str]:
    """The key, and the secret of its callbacks."""
    ledger = Ledger(Settings(_env_file=None, data_dir=folder / "data").resolved_database_url)
    ledger.migrate()
    key, text = ledger.keys.create("ann")
    secret = ledger.endpoints.secret(key.key_id)
    ledger.close()
    return text, secret


@pytest.fixture(scope="module", params=[True, False], ids=["taken away", "left"])
def below(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Below]:
    if not os.environ.get("CI") and not shutil.which("nginx"):
        pytest.skip("no nginx here")
    folder, port = tmp_path_factory.mktemp("below"), free_port()
    key, secret = key_of_ann(folder)
    (folder / "proxy").mkdir()
    url = f"https://localhost:{port}/kinora"
    with receiving(secret) as receiver, ExitStack() as stack:
        settings = {"PUBLIC_URL": url, "AUTH": "keys", "FETCH_ALLOW": urlsplit(receiver.url).netloc}
        service = stack.enter_context(running_stack(folder, ENGINE="preview", **settings))
        stack.enter_context(running(nginx_below(folder / "proxy", port, service.port, request.param)))
        trusted = ssl.create_default_context(cafile=folder / "proxy/cert.pem")
        stranger = stack.enter_context(httpx2.Client(base_url=f"{url}/", verify=trusted, timeout=60))
        headers = {"X-API-Key": key}
        client = stack.enter_context(httpx2.Client(base_url=f"{url}/", verify=trusted, timeout=60, headers=headers))
        wait_until(lambda: answers(stranger), 30, "nginx")
        yield Below(url, client, stranger, receiver, service.url)


@pytest.mark.parametrize("path", ["generate", "v1/videos", "v1/files", "v2beta/image-to-video", "mcp", "webhooks"])
def test_a_slash_at_the_end_leads_to_the_path_below(below: Below, path: str) -> None:
    answer = below.client.post(f"{path}/?a=b", content=b"x" * 100_000)
    assert (answer.status_code, answer.headers["location"]) == (307, f"/kinora/{path}?a=b")


def test_the_path_without_a_slash_leads_to_the_page(below: Below) -> None:
    assert below.stranger.get(below.url, follow_redirects=True).text.startswith("<!doctype html>")
    answer = httpx2.get(f"{below.direct}/kinora")
    assert (answer.status_code, answer.headers["location"]) == (307, "/kinora/")


@pytest.mark.parametrize(("page", "parts"), [("", 7), ("docs", 4), ("redoc", 3)])
def test_a_page_finds_its_parts_below_the_path(below: Below, page: str, parts: int) -> None:
    text = below.stranger.get(page).text
    found = re.findall(r"""(?:src|href|url|spec-url)(?:=|: )["']([^"'#]+)["']""", text)
    assert len(found) >= parts, found
    for link in found:
        url = urljoin(f"{below.url}/{page}", link)
        assert url.startswith(f"{below.url}/"), link
        assert below.stranger.get(url).status_code == 200, link


def test_the_document_says_where_its_routes_are(below: Below) -> None:
    for url in (f"{below.url}/openapi.json", f"{below.direct}/openapi.json"):
        (server,) = below.stranger.get(url).json()["servers"]
        assert below.stranger.get(urljoin(url, server["url"]) + "/health/live").status_code == 200


def test_every_link_of_every_answer_leads_below_the_path(below: Below) -> None:
    task_id, links = finished_with_links(below)
    for link in links:
        assert link.startswith(f"{below.url}/results/{task_id}"), link
        assert below.stranger.get(link).status_code == 200, "it is signed"
    prediction = below.client.get(f"v1/predictions/{task_id}").json()
    for method, name in (("GET", "get"), ("POST", "cancel")):
        link = prediction["urls"][name]
        assert link.startswith(f"{below.url}/v1/predictions/{task_id}"), link
        assert below.client.request(method, link).json()["id"] == task_id


def finished_with_links(below: Below) -> tuple[str, list[str]]:
    """The id of a task that has ended, and all that any dialect calls its result."""
    client, hook = below.client, {"callback_url": f"{below.receiver.url}/hook"}
    task = client.post("generate", files={"file": CAT}, data=SMALL | hook).json()
    assert task["status_url"].startswith(f"{below.url}/status/")
    follow(client, f"{task['status_url']}/events", {})
    wait_until(lambda: bool(below.receiver.received), 30, "the callback")
    status, task_id = client.get(task["status_url"]).json(), task["task_id"]
    links = [task["result_url"], status["result_url"], status["thumbnail_url"]]
    links += [client.get("tasks").json()["tasks"][0]["result_url"]]
    links += [client.get(f"v1/predictions/{task_id}").json()["output"]]
    links += [below.receiver.received[-1].body["data"]["result_url"]]
    return task_id, [*links, called_by_mcp(client, "get_task", task_id=task_id)["result_url"]]


def called_by_mcp(client: httpx2.Client, tool: str, **given: Any) -> dict[str, Any]:
    asked = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": given}}
    answer = client.post("mcp", json=asked, headers={"Accept": "application/json"})
    return dict(answer.json()["result"]["structuredContent"])


def test_the_service_itself_answers_with_and_without_the_path(below: Below) -> None:
    for path in ("/health/live", "/kinora/health/live"):
        assert httpx2.get(f"{below.direct}{path}").json() == {"status": "ok"}
    for path in ("/kinora/tasks", "/tasks", "/kinorax/tasks", "/kinora/kinora/docs", "/kinora/kinora/health/live"):
        assert httpx2.get(f"{below.direct}{path}").status_code == 401, "nobody gets in by another spelling"
