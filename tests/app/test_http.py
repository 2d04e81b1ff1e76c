"""What every answer carries, what the log says of it, and what a web page may do here."""

import io
import json
import logging
from collections.abc import Iterator
from dataclasses import replace

import pytest
from fastapi.testclient import TestClient

from app.intake.form import MAX_FILES
from app.main import create_app
from app.services import Services
from core.config.settings import Settings
from core.errors import LedgerUnavailable
from harness.pictures import CAT
from tests.app.conftest import upload

PAGE = "https://page.example"


# --- headers ---


@pytest.mark.parametrize("path", ["/tasks", "/health/live", "/nowhere", "/docs", "/status/none", "/results/none"])
def test_every_answer_restricts_the_browser(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["cross-origin-resource-policy"] == ("cross-origin" if "results" in path else "same-origin")
    assert "server" not in headers


def test_only_a_result_may_be_kept(client: TestClient, finished: str) -> None:
    assert client.get(f"/status/{finished}").headers["cache-control"] == "no-store"
    assert "private" in client.get(f"/results/{finished}").headers["cache-control"]


def test_the_documentation_asks_no_other_host(client: TestClient) -> None:
    policy = client.get("/docs").headers["content-security-policy"]
    assert "http" not in policy
    assert "default-src 'self'" in policy


def test_a_fault_of_ours_shows_nothing_of_our_insides(
    client: TestClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("the password is hunter2")

    monkeypatch.setattr(services.ledger, "tasks", broken)
    answer = client.get("/tasks")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
    assert "hunter2" not in answer.text
    assert "Traceback" not in answer.text
    assert answer.headers["x-request-id"]
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_why_a_store_failed_is_for_the_log(client: TestClient, services: Services) -> None:
    settings = services.settings.model_copy(update={"auth": "off"})
    client.app.state.services = replace(services, settings=settings, ledger=AwayLedger())
    answer = client.get("/engines")
    assert answer.json()["error"]["message"] == "the ledger does not answer"


class AwayLedger:
    def workers(self) -> None:
        raise LedgerUnavailable("the ledger does not answer: connection to 10.1.2.3 failed for user kinora")


# --- request ids and the log ---


@pytest.fixture
def lines(client: TestClient) -> Iterator[io.StringIO]:
    """All that the log holds, as it is written."""
    root = logging.getLogger()
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(root.handlers[0].formatter)
    root.addHandler(handler)
    yield written
    root.removeHandler(handler)


def entries(lines: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in lines.getvalue().splitlines() if line.startswith("{")]


def test_a_request_has_an_id_of_its_own_or_the_callers(client: TestClient) -> None:
    one, two = (client.get("/tasks").headers["x-request-id"] for _ in range(2))
    assert one != two
    assert client.get("/tasks", headers={"X-Request-ID": "mine-1"}).headers["x-request-id"] == "mine-1"
    for bad in ("a b", "x" * 65, '"}{"'):
        assert client.get("/tasks", headers={"X-Request-ID": bad}).headers["x-request-id"] != bad


def test_the_log_tells_task_key_and_request(client: TestClient, services: Services, lines: io.StringIO) -> None:
    client.headers["X-API-Key"] = services.ledger.keys.create("ann")[1]
    task_id = client.post("/generate", files={"file": CAT}, headers={"X-Request-ID": "r1"}).json()["task_id"]
    client.post(f"/cancel/{task_id}", headers={"X-Request-ID": "r2"})
    found = {(line["event"], line["request_id"]): line for line in entries(lines)}
    assert found["task_accepted", "r1"]["task_id"] == task_id
    assert found["task_accepted", "r1"]["key"] == "ann"
    answered = found["request_answered", "r2"]
    assert (answered["key"], answered["task_id"], answered["route"]) == ("ann", task_id, "/cancel/{task_id}")
    assert answered["status"] == 200


def test_the_log_holds_no_secret_and_nothing_that_a_user_made(
    client: TestClient, services: Services, lines: io.StringIO
) -> None:
    ann = services.ledger.keys.create("ann")[1]
    client.headers["X-API-Key"] = ann
    prompt = "a-prompt-of-a-users"
    accepted = client.post(
        "/generate", files={"file": ("a-file-name.jpg", CAT)}, data={"prompt": prompt, "seed": "not-a-seed"}
    )
    assert accepted.status_code == 422
    made = client.post("/generate", files={"file": ("a-file-name.jpg", CAT)}, data={"prompt": prompt}).json()
    link = made["result_url"]
    client.get(link, headers={"X-API-Key": ""})
    client.get(link + "x", headers={"X-API-Key": ""})
    client.get("/tasks", headers={"X-API-Key": "kinora_wrong"})
    client.get(f"/nowhere/{ann}", params={"key": ann})
    client.post("/webhooks", json={"url": "https://example.com/?token=a-callbacks-token"})
    secret = client.get("/webhooks/secret").json()["secret"]
    client.post(f"/cancel/{made['task_id']}")
    text = lines.getvalue()
    assert "task_accepted" in text
    signature = link.partition("signature=")[2]
    for private in (ann, "kinora_wrong", prompt, "a-file-name", signature, "a-callbacks-token", secret, "not-a-seed"):
        assert private not in text, private
    assert CAT[:40].hex() not in text
    assert repr(CAT)[2:40] not in text


# --- what a web page may do ---


def with_settings(settings: Settings, **changes: object) -> TestClient:
    return TestClient(create_app(settings.model_copy(update=changes)))


def test_no_page_may_call_from_a_browser_unless_it_is_named(client: TestClient) -> None:
    asked = {"Origin": PAGE, "Access-Control-Request-Method": "POST"}
    assert "access-control-allow-origin" not in client.options("/generate", headers=asked).headers
    assert "access-control-allow-origin" not in client.get("/tasks", headers={"Origin": PAGE}).headers


def test_a_named_page_may_call_from_a_browser(settings: Settings) -> None:
    with with_settings(settings, cors_origins=f"{PAGE}, https://other.example") as client:
        client.app.state.services.ledger.keys.create("ann")
        asked = {
            "Origin": PAGE,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization, idempotency-key",
        }
        preflight = client.options("/generate", headers=asked)
        assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (200, PAGE)
        answer = client.get("/tasks", headers={"Origin": PAGE})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (401, PAGE)
        assert "access-control-allow-credentials" not in answer.headers
        stranger = client.options("/generate", headers=asked | {"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in stranger.headers


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.nip.io", "a.b.", "local..", ".", "", "["]
)
def test_without_keys_a_name_that_anyone_could_point_here_is_refused(client: TestClient, host: str) -> None:
    """DNS rebinding: the page's own name leads to 127.0.0.1, so that its script may read the answers."""
    answer = client.get("/tasks", headers={"Host": host})
    assert (answer.status_code, answer.json()["error"]["code"]) == (421, "host_unknown")


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8000", "localhost:8000", "[::1]:8000", "192.168.1.5", "api:8000", "gpu", "localhost.:80"]
)
def test_without_keys_an_address_and_a_local_name_are_ours(client: TestClient, host: str) -> None:
    assert client.get("/tasks", headers={"Host": host}).status_code == 200


def test_public_url_is_a_name_of_ours(settings: Settings) -> None:
    with with_settings(settings, auth="off", public_url="https://video.example.com/kinora") as client:
        for host in ("video.example.com", "video.example.com."):
            assert client.get("/tasks", headers={"Host": host}).status_code == 200
        assert client.get("/tasks", headers={"Host": "other.example.com"}).status_code == 421


def test_names_that_are_listed_are_ours_and_no_others(settings: Settings) -> None:
    listed = "Kinora.default.svc.cluster.local, kinora.default."
    with with_settings(settings, auth="off", allowed_hosts=listed) as client:
        for host in (
            "kinora.default.svc.cluster.local:8000",
            "kinora.default.svc.cluster.local.:8000",
            "kinora.DEFAULT",
            "kinora.default.",
        ):
            assert client.get("/tasks", headers={"Host": host}).status_code == 200, host
        for host in (
            "default.svc.cluster.local",
            "x.kinora.default",
            "kinora.default.evil.example",
            "host.docker.internal",
        ):
            assert client.get("/tasks", headers={"Host": host}).status_code == 421, host


def test_a_container_may_call_this_machine_by_its_name(client: TestClient) -> None:
    assert client.get("/tasks", headers={"Host": "host.docker.internal:8000"}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "kinora.default.svc.cluster.local", "", "["])
def test_without_keys_health_tells_no_reasons_under_a_name_that_is_not_ours(client: TestClient, host: str) -> None:
    """A load balancer that asks may name none; a page of another site learns no more than any stranger."""
    assert client.get("/health").json()["problems"]
    told = client.get("/health", headers={"Host": host})
    assert (told.status_code, told.json()["status"], told.json()["problems"]) == (503, "degraded", [])
    assert client.get("/health/live", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("origin", [PAGE, "null", "http://127.0.0.1:9999", "http://localhost"])
def test_without_keys_another_sites_page_cannot_send_forms(client: TestClient, origin: str) -> None:
    headers = {"Host": "127.0.0.1:8000", "Origin": origin}
    answer = client.post("/generate", files={"file": CAT}, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "origin_forbidden")
    assert client.get("/tasks").json()["tasks"] == []


def test_our_own_page_may_send_forms(client: TestClient) -> None:
    headers = {"Host": "127.0.0.1:8000", "Origin": "http://127.0.0.1:8000"}
    assert client.post("/generate", files={"file": CAT}, headers=headers).status_code == 202


def test_with_a_key_neither_name_nor_origin_matter(client: TestClient, services: Services) -> None:
    headers = {"X-API-Key": services.ledger.keys.create("ann")[1], "Host": "video.example.com", "Origin": PAGE}
    assert client.post("/generate", files={"file": CAT}, headers=headers).status_code == 202


# --- bounds ---


def test_a_form_has_few_parts(client: TestClient) -> None:
    many_fields = client.post("/generate", files={"file": CAT}, data={f"f{n}": "x" for n in range(100)})
    many_files = client.post("/generate", files=[("file", CAT) for _ in range(MAX_FILES + 1)])
    long_field = client.post("/generate", files={"file": CAT}, data={"prompt": "x" * 100_000})
    for answer in (many_fields, many_files, long_field):
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["code"] == "bad_request"


@pytest.mark.parametrize(
    "media_type",
    [
        "multipart/form-data; boundary=x; charset=punycode",
        "multipart/form-data; boundary=x; charset=idna",
    ],
)
def test_a_form_is_in_utf_8(client: TestClient, media_type: str) -> None:
    """Some codecs take the square of the time."""
    body = b"--x\r\nContent-Disposition: form-data; name=prompt\r\n\r\nabc\r\n--x--\r\n"
    answer = client.post("/generate", content=body, headers={"Content-Type": media_type})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_request")


def test_a_form_without_a_picture_is_small(client: TestClient) -> None:
    """One of ampersands is millions of fields."""
    as_form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert client.post("/generate", content=b"&" * 1000, headers=as_form).status_code == 422
    for body in (b"&" * 100_000, iter([b"&" * 1000])):
        answer = client.post("/generate", content=body, headers=as_form)
        assert (answer.status_code, answer.json()["error"]["code"]) == (415, "content_type_unsupported")


def test_only_an_upload_may_be_large(client: TestClient) -> None:
    body = b'{"url": "https://example.com/", "events": [' + b'"task.finished",' * 100_000 + b'"task.failed"]}'
    as_json = {"Content-Type": "application/json"}
    answer = client.post("/webhooks", content=body, headers=as_json)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "upload_too_large")
    chunked = client.post("/webhooks", content=iter([body]), headers=as_json)
    assert (chunked.status_code, chunked.json()["error"]["code"]) == (413, "upload_too_large")
    few = client.post("/webhooks", json={"url": "https://example.com/", "events": ["task.failed"] * 6})
    assert (few.status_code, few.json()["error"]["param"]) == (422, "events")


def test_a_request_has_few_headers(client: TestClient) -> None:
    answer = client.get("/tasks", headers={f"X-H{n}": "x" for n in range(150)})
    assert (answer.status_code, answer.json()["error"]["code"]) == (431, "too_many_headers")


def test_a_thousand_ranges_are_answered_like_none(client: TestClient, finished: str) -> None:
    ranges = "bytes=" + ",".join(f"{n}-{n + 1}" for n in range(5_000))
    answer = client.get(f"/results/{finished}", headers={"Range": ranges})
    assert answer.status_code == 200


def test_a_clients_task_survives_a_stranger(client: TestClient) -> None:
    task_id = upload(client)
    client.post(f"/cancel/{task_id}", headers={"Host": "evil.example"})
    assert client.get(f"/status/{task_id}").json()["status"] == "queued"
