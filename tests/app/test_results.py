from collections.abc import Callable
from dataclasses import replace

import httpx2
import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from app.ranges import parse_range
from app.services import Services
from core.errors import RangeNotSatisfiable, StorageUnavailable
from core.storage import Storage
from core.task import Claim, ErrorInfo, Task
from tests.app.conftest import THUMBNAIL, VIDEO, upload
from tests.conftest import artifacts_at


def test_the_video_is_served_whole(client: TestClient, finished: str) -> None:
    response = client.get(f"/results/{finished}")
    assert (response.status_code, response.content) == (200, VIDEO)
    assert response.headers["content-type"] == "video/mp4"
    assert response.headers["content-length"] == str(len(VIDEO))
    assert response.headers["content-disposition"] == f'inline; filename="kinora-{finished}.mp4"'
    assert response.headers["accept-ranges"] == "bytes"


def test_the_thumbnail_is_a_jpeg(client: TestClient, finished: str) -> None:
    response = client.get(f"/results/{finished}/thumbnail")
    assert (response.status_code, response.content, response.headers["content-type"]) == (200, THUMBNAIL, "image/jpeg")


def test_head_says_the_size_and_sends_nothing(client: TestClient, finished: str) -> None:
    response = client.head(f"/results/{finished}")
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["content-length"] == str(len(VIDEO))


@pytest.mark.parametrize(
    ("asked", "start", "end"), [("0-99", 0, 100), ("100-", 100, None), ("-50", -50, None), ("0-999999999", 0, None)]
)
def test_a_range_is_served_in_part(client: TestClient, finished: str, asked: str, start: int, end: int | None) -> None:
    response = client.get(f"/results/{finished}", headers={"Range": f"bytes={asked}"})
    assert (response.status_code, response.content) == (206, VIDEO[start:end])
    first = start % len(VIDEO)
    assert response.headers["content-range"] == f"bytes {first}-{first + len(response.content) - 1}/{len(VIDEO)}"


def test_a_range_beyond_the_end_is_a_416(client: TestClient, finished: str) -> None:
    response = client.get(f"/results/{finished}", headers={"Range": f"bytes={len(VIDEO)}-"})
    assert (response.status_code, response.headers["content-range"]) == (416, f"bytes */{len(VIDEO)}")
    assert response.json()["error"]["code"] == "range_not_satisfiable"


def test_a_copy_that_is_still_good_is_not_sent_again(client: TestClient, finished: str) -> None:
    etag = client.get(f"/results/{finished}").headers["etag"]
    assert client.get(f"/results/{finished}", headers={"If-None-Match": etag}).status_code == 304
    stale = {"Range": "bytes=0-1", "If-Range": '"another"'}
    assert client.get(f"/results/{finished}", headers=stale).status_code == 200
    fresh = {"Range": "bytes=0-1", "If-Range": etag}
    assert client.get(f"/results/{finished}", headers=fresh).status_code == 206


def test_a_task_that_runs_is_not_ready_and_says_when_to_ask_again(client: TestClient) -> None:
    response = client.get(f"/results/{upload(client)}")
    assert (response.status_code, response.json()["error"]["code"]) == (409, "not_ready")
    assert int(response.headers["retry-after"]) >= 1


def test_a_task_that_failed_is_gone_with_its_own_error(
    client: TestClient, services: Services, claim: Callable[[str], Claim]
) -> None:
    taken = claim(upload(client))
    services.ledger.fail(taken, ErrorInfo("attempts_exhausted", "it died"))
    response = client.get(f"/results/{taken.task.task_id}")
    assert response.status_code == 410
    assert response.json()["error"]["code"] == "attempts_exhausted"


def test_a_canceled_task_is_gone(client: TestClient) -> None:
    task_id = upload(client)
    client.post(f"/cancel/{task_id}")
    response = client.get(f"/results/{task_id}")
    assert (response.status_code, response.json()["error"]["code"]) == (410, "task_canceled")


def test_an_expired_result_is_gone(client: TestClient, services: Services, finished: str) -> None:
    services.storage.delete_task(finished)
    services.ledger.mark_expired(finished)
    response = client.get(f"/results/{finished}")
    assert (response.status_code, response.json()["error"]["code"]) == (410, "result_expired")


def test_a_forgotten_task_is_as_one_that_never_was(client: TestClient, services: Services, finished: str) -> None:
    services.storage.delete_task(finished)
    services.ledger.mark_expired(finished)
    calls = [
        ("GET", "/status/{}"),
        ("GET", "/status/{}/events"),
        ("GET", "/results/{}"),
        ("GET", "/results/{}/thumbnail"),
        ("POST", "/cancel/{}"),
        ("POST", "/tasks/{}/retry"),
        ("DELETE", "/tasks/{}"),
        ("GET", "/v1/videos/{}"),
        ("POST", "/v1/videos/{}/remix"),
        ("GET", "/v1/predictions/{}"),
        ("GET", "/v2beta/image-to-video/result/{}"),
    ]
    assert client.get(f"/results/{finished}").json()["error"]["code"] == "result_expired"
    assert services.ledger.forget([finished]) == 1
    for method, path in calls:
        form = {"data": {"seed": "1"}} if path.endswith("remix") else {}
        answer = client.request(method, path.format(finished), **form)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "task_not_found"), path
    assert client.get(f"/tasks?after={finished}").json()["tasks"] == []
    assert client.get("/webhooks/deliveries").json()["deliveries"] == []


def test_deleting_a_task_deletes_its_files_and_keeps_its_record(
    client: TestClient, services: Services, finished: str
) -> None:
    for _ in range(2):
        response = client.delete(f"/tasks/{finished}")
        assert (response.status_code, response.json()["status"]) == (200, "finished")
    assert list(services.storage.task_ids()) == []
    response = client.get(f"/results/{finished}")
    assert (response.status_code, response.json()["error"]["code"]) == (410, "result_expired")


def test_a_task_that_finishes_while_it_is_deleted_is_gone(
    client: TestClient, services: Services, claim: Callable[[str], Claim], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, cancel = claim(upload(client)), services.ledger.cancel

    def too_late(task_id: str, owner: str | None) -> Task:
        services.ledger.finish(taken, artifacts_at(video="tasks/x/video.mp4"), {}, {})
        return cancel(task_id, owner)

    monkeypatch.setattr(services.ledger, "cancel", too_late)
    task_id = taken.task.task_id
    assert client.delete(f"/tasks/{task_id}").json()["status"] == "finished"
    response = client.get(f"/results/{task_id}")
    assert (response.status_code, response.json()["error"]["code"]) == (410, "result_expired")


def test_deleting_a_task_that_waits_cancels_it(client: TestClient, services: Services) -> None:
    task_id = upload(client)
    assert client.delete(f"/tasks/{task_id}").json()["status"] == "canceled"
    assert list(services.storage.task_ids()) == []
    assert services.ledger.just_expired(60) == [task_id], "the keeper looks once more for what was stored too late"
    assert client.delete(f"/tasks/{'0' * 32}").status_code == 404


@pytest.mark.parametrize("running", [False, True])
def test_deleting_a_task_that_has_not_ended_gives_the_quota_back_at_once(
    client: TestClient, services: Services, claim: Callable[[str], Claim], running: bool
) -> None:
    client.headers["X-API-Key"] = services.ledger.keys.create("ann")[1]
    task_id = upload(client)
    taken = claim(task_id) if running else None
    assert services.ledger.keys.all()[0].stored_bytes > 0
    for _ in range(2):
        assert client.delete(f"/tasks/{task_id}").json()["status"] == "canceled"
        assert services.ledger.keys.all()[0].stored_bytes == 0
    if taken:
        assert services.ledger.finish(taken, {}, {}, {}, stored_bytes=1_000_000) is None
    assert services.ledger.keys.all()[0].stored_bytes == 0
    response = client.get(f"/results/{task_id}")
    assert (response.status_code, response.json()["error"]["code"]) == (410, "task_canceled")


@given(st.integers(1, 500), st.integers(0, 600), st.integers(0, 600))
def test_a_range_is_what_a_slice_would_give(size: int, first: int, last: int) -> None:
    whole = bytes(i % 256 for i in range(size))
    try:
        part = parse_range(f"bytes={first}-{last}", size)
    except RangeNotSatisfiable:
        assert first >= size
    else:
        assert (part is None) == (last < first)
        if part:
            assert whole[slice(*part)] == whole[first : last + 1] != b""


@given(st.text(max_size=60), st.integers(1, 100))
def test_no_range_header_breaks_the_parser(header: str, size: int) -> None:
    try:
        part = parse_range(header, size)
    except RangeNotSatisfiable:
        return
    assert part is None or 0 <= part[0] < part[1] <= size


@pytest.mark.parametrize("header", ["bytes=0-1,5-6", "items=0-1", "bytes=", "bytes=a-b", "bytes=-", "0-1"])
def test_what_is_not_one_range_is_ignored(header: str) -> None:
    assert parse_range(header, 100) is None


def test_a_download_is_sent_to_the_object_store(
    client: TestClient, services: Services, finished: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-east-1"}
    for name, value in ({"AWS_ENDPOINT": s3_endpoint, "AWS_ALLOW_HTTP": "true"} | keys).items():
        monkeypatch.setenv(name, value)
    httpx2.put(f"{s3_endpoint}/redirected")
    store = Storage("s3://redirected/kinora")
    store.put(services.ledger.artifacts(finished)["video"].key, VIDEO)
    settings = services.settings.model_copy(update={"result_redirect": True})
    client.app.state.services = replace(services, settings=settings, storage=store)
    answer = client.get(f"/results/{finished}", follow_redirects=False)
    assert (answer.status_code, answer.headers["cache-control"]) == (307, "no-store")
    assert httpx2.get(answer.headers["location"]).content == VIDEO
    assert client.head(f"/results/{finished}").status_code == 200  # answered here


@given(st.integers(1, 500), st.integers(0, 600))
def test_a_range_of_the_last_bytes_is_what_a_slice_would_give(size: int, last: int) -> None:
    whole = bytes(i % 256 for i in range(size))
    try:
        part = parse_range(f"bytes=-{last}", size)
    except RangeNotSatisfiable:
        assert last == 0
    else:
        assert part is not None
        assert part[0] >= 0
        assert whole[slice(*part)] == whole[-last:]


@pytest.mark.parametrize(("link_ttl", "seconds"), [(60, 60), (24 * 3600, 3600)])
def test_an_object_stores_link_opens_no_longer_than_ours(
    client: TestClient,
    services: Services,
    finished: str,
    monkeypatch: pytest.MonkeyPatch,
    link_ttl: int,
    seconds: int,
) -> None:
    monkeypatch.setattr(services.storage, "link", lambda key, seconds: f"https://store.example.com/{seconds}")
    settings = services.settings.model_copy(update={"result_redirect": True, "link_ttl": link_ttl})
    client.app.state.services = replace(services, settings=settings)
    answer = client.get(f"/results/{finished}", follow_redirects=False)
    assert answer.headers["location"] == f"https://store.example.com/{seconds}"


def test_a_task_whose_files_cannot_be_deleted_is_not_said_to_be(
    client: TestClient, services: Services, finished: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_: str) -> None:
        raise StorageUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(services.storage, "delete_task", away)
        assert client.delete(f"/tasks/{finished}").status_code == 503
    assert client.get(f"/results/{finished}").status_code == 200
    assert client.delete(f"/tasks/{finished}").status_code == 200
    assert list(services.storage.task_ids()) == []
