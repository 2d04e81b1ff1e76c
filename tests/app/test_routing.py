"""What is said of a request's path, method and media type, before anything is said of its body."""

import gzip
import threading
from collections.abc import Iterator

import httpx2
import pytest
import uvicorn
from fastapi.testclient import TestClient

from app.main import create_app
from app.middleware.slow_clients import BoundedHttp
from core.config.settings import Settings
from harness.pictures import CAT
from harness.servers import wait_until

PICTURE = b"\xff\xd8\xff" + bytes(range(256)) * 1000
JPEG = {"Content-Type": "image/jpeg"}
WRONG = [
    "/generat",
    "/videos",
    "/predictions",
    "/v1/video",
    "/v1/v1/files",
    "/v2beta/x",
    "/mcp/x",
    "/studio",
]
UPLOADS = ["/generate", "/v1/videos", "/v1/videos/sync", "/v1/videos/edits", "/v1/videos/extensions"]
UPLOADS += ["/v2beta/image-to-video", "/v1/files"]
JSON_ONLY = ["/v1/predictions", "/v1/models/kinora/auto/predictions", "/mcp", "/webhooks"]


@pytest.fixture
def direct(client: TestClient) -> TestClient:
    """It follows no redirect, so that a test sees the first answer."""
    client.follow_redirects = False
    return client


def of(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


@pytest.mark.parametrize("path", WRONG)
def test_a_picture_to_a_wrong_path_is_told_that_there_is_none(direct: TestClient, path: str) -> None:
    for sent in ({"files": {"file": PICTURE}}, {"content": PICTURE, "headers": JPEG}, {"json": {"a": "x" * 100_000}}):
        assert of(direct.post(path, **sent)) == (404, "not_found")


@pytest.mark.parametrize("path", ["/videos", "/files", "/predictions"])
@pytest.mark.parametrize("base", ["", "/v1/v1", "/api/v1", "/a/b/v1"])
def test_a_base_url_that_is_too_short_or_too_long_is_told_where_the_route_is(
    direct: TestClient, path: str, base: str
) -> None:
    answer = direct.post(base + path, files={"file": PICTURE}).json()
    assert answer["error"]["message"] == f"there is no {base}{path} here; there is /v1{path}"


@pytest.mark.parametrize("path", ["/x", "/x//", "//", "/v1/v1/v1/v1/v1/videos", "/" + "a/" * 10_000])
def test_a_path_that_leads_nowhere_is_told_of_no_other(direct: TestClient, path: str) -> None:
    assert "; there is" not in direct.post(path).json()["error"]["message"]


@pytest.mark.parametrize("path", [*UPLOADS, *JSON_ONLY])
def test_a_slash_at_the_end_leads_to_the_path_without(direct: TestClient, path: str) -> None:
    for sent in ({"files": {"file": PICTURE}}, {"json": {"image": "x" * 100_000}}, {"content": PICTURE}):
        answer = direct.post(f"{path}/?a=%20b", **sent)
        assert (answer.status_code, answer.headers["location"]) == (307, f"{path}?a=%20b")
        assert answer.headers["connection"] == "close", "nobody reads the picture"


@pytest.mark.parametrize("path", ["/status/abc%3Fx", "/status/abc%23x", "/status/a%25b", "/status/%C3%A9%20"])
def test_a_slash_at_the_end_of_a_path_with_escapes_leads_to_the_same_path(direct: TestClient, path: str) -> None:
    answer = direct.get(f"{path}/?a=%20b")
    assert (answer.status_code, answer.headers["location"]) == (307, f"{path}?a=%20b")


@pytest.mark.parametrize("path", [*UPLOADS, "/status/x", "/results/x", "/", "/studio/studio.js", "/docs"])
def test_a_picture_by_a_method_that_a_path_does_not_have_is_told_which_it_has(direct: TestClient, path: str) -> None:
    answer = direct.put(path, content=PICTURE, headers=JPEG)
    assert of(answer) == (405, "method_not_allowed")
    assert "OPTIONS" in answer.headers["allow"]


@pytest.mark.parametrize("path", UPLOADS)
def test_a_picture_as_the_body_itself_is_told_what_the_body_must_be(direct: TestClient, path: str) -> None:
    as_curl_does = {"Content-Type": "application/x-www-form-urlencoded"}
    for headers in (JPEG, {"Content-Type": "application/octet-stream"}, as_curl_does, {}):
        answer = direct.post(path, content=PICTURE, headers=headers)
        assert of(answer) == (415, "content_type_unsupported")
        assert "multipart/form-data" in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", [*UPLOADS, *JSON_ONLY])
def test_a_body_that_comes_compressed_is_told_so(direct: TestClient, path: str) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    answer = direct.post(path, content=gzip.compress(b"{}"), headers=headers)
    assert of(answer) == (415, "content_type_unsupported")
    assert "without Content-Encoding; got 'gzip'" in answer.json()["error"]["message"]
    assert answer.headers["accept-encoding"] == "identity"
    plain = direct.post(path, content=b"{}", headers=headers | {"Content-Encoding": "identity"})
    assert plain.status_code in (400, 422), "which is for what it lacks"


@pytest.mark.parametrize("path", JSON_ONLY)
def test_what_is_no_json_is_told_so_where_only_json_is_read(direct: TestClient, path: str) -> None:
    for sent in ({"files": {"file": PICTURE}}, {"content": PICTURE, "headers": JPEG}, {"data": {"url": "x"}}):
        answer = direct.post(path, **sent)
        assert of(answer) == (415, "content_type_unsupported")
        assert "application/json" in answer.json()["error"]["message"]


def test_a_route_that_reads_nothing_takes_any_media_type(direct: TestClient) -> None:
    task_id = direct.post("/generate", files={"file": CAT}).json()["task_id"]
    assert direct.post(f"/cancel/{task_id}", content=b"{}", headers={"Content-Type": "text/plain"}).status_code == 200


def test_an_error_of_these_has_the_fields_that_a_vendors_client_reads(direct: TestClient) -> None:
    assert direct.post("/v1/predictions", content=PICTURE, headers=JPEG).json()["title"] == "content_type_unsupported"
    assert direct.post("/v2beta/nothing", content=PICTURE).json()["name"] == "not_found"
    for path in ("/v1/v1/files", "/api/v1/predictions", "/v1/account", "/v1/deployments/a/b/predictions"):
        assert direct.post(path, content=PICTURE).json()["detail"].startswith(f"there is no {path} here")


@pytest.fixture(scope="module")
def picture() -> bytes:
    return bytes(20_000_000)


@pytest.fixture
def url(settings: Settings) -> Iterator[str]:
    """Of a server on a real port."""
    config = uvicorn.Config(create_app(settings), port=0, http=BoundedHttp, log_config=None, access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started, 30, "the server")
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(30)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("POST", "/generat", 404), ("POST", "/generate/", 307), ("PUT", "/generate", 405), ("POST", "/generate", 415)],
)
def test_a_client_that_sends_a_whole_picture_hears_the_answer(
    url: str, picture: bytes, method: str, path: str, status: int
) -> None:
    with httpx2.Client(base_url=url, timeout=30) as client:
        for content in (picture, iter([picture[:100_000]] * 200)):
            answer = client.request(method, path, content=content, headers=JPEG)
            assert (answer.status_code, answer.headers["connection"]) == (status, "close")


# --- methods ---


def every_get(client: TestClient) -> list[str]:
    paths = client.get("/openapi.json").json()["paths"]
    assert len(paths) > 20
    return [path.replace("{", "").replace("}", "") for path, operations in paths.items() if "get" in operations]


def test_every_route_that_answers_get_answers_head_likewise_and_sends_nothing(client: TestClient) -> None:
    others = ["/", "/docs", "/openapi.json", "/redoc", "/studio/studio.js", "/static-offline-docs/favicon.png"]
    for path in [*every_get(client), *others]:
        whole, head = client.get(path), client.head(path)
        assert (head.status_code, head.content) == (whole.status_code, b""), path
        assert head.headers["content-type"] == whole.headers["content-type"], path


def test_head_of_the_events_ends_at_once_and_leaves_no_listener(client: TestClient) -> None:
    task_id = client.post("/generate", files={"file": CAT}).json()["task_id"]
    head = client.head(f"/status/{task_id}/events")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"].startswith("text/event-stream")
    assert client.app.state.services.listeners.free == client.app.state.services.listeners.slots


def test_the_document_tells_each_operation_once(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert [path for path, operations in paths.items() if "head" in operations] == []


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/generate", "OPTIONS, POST"),
        ("/webhooks", "GET, HEAD, OPTIONS, POST"),
        ("/results/none", "GET, HEAD, OPTIONS"),
        ("/tasks/none", "DELETE, OPTIONS"),
        ("/v1/videos/none", "DELETE, GET, HEAD, OPTIONS"),
        ("/", "GET, HEAD, OPTIONS"),
        ("/studio/studio.js", "GET, HEAD, OPTIONS"),
        ("/mcp", "OPTIONS, POST"),
    ],
)
def test_options_and_a_405_tell_the_methods_of_a_path(client: TestClient, path: str, methods: str) -> None:
    asked = client.options(path)
    assert (asked.status_code, asked.headers["allow"], asked.content) == (204, methods, b"")
    refused = client.request("PATCH", path)
    assert (refused.status_code, refused.headers["allow"]) == (405, methods)


def test_options_of_no_path_is_a_404(client: TestClient) -> None:
    assert of(client.options("/nowhere")) == (404, "not_found")


def test_a_stranger_learns_no_more_of_a_path_than_that_a_key_is_needed(client: TestClient) -> None:
    client.app.state.services.ledger.keys.create("ann")
    for method in ("OPTIONS", "PUT", "HEAD"):
        assert client.request(method, "/tasks").status_code == 401
