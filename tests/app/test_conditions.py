"""What a download is asked for under conditions, as RFC 9110 has them."""

from email.utils import formatdate, parsedate_to_datetime

import pytest
from fastapi.testclient import TestClient

from app.services import Services
from core.live_previews import LivePreviews
from tests.app.conftest import VIDEO, upload

ROUTES = ["/results/{}", "/v1/videos/{}/content", "/v2beta/image-to-video/result/{}"]
LONG_AGO, LATER = formatdate(0, usegmt=True), formatdate(4e9, usegmt=True)


@pytest.fixture(params=ROUTES)
def path(request: pytest.FixtureRequest, finished: str) -> str:
    return str(request.param).format(finished)


def status_with(client: TestClient, path: str, **headers: str) -> int:
    """Of GET; HEAD must be answered likewise."""
    sent = {name.replace("_", "-"): text for name, text in headers.items()}
    answers = [client.request(method, path, headers=sent) for method in ("GET", "HEAD")]
    assert answers[0].status_code == answers[1].status_code
    return answers[0].status_code


def test_a_copy_that_is_known_by_its_tag_is_not_sent_again(client: TestClient, path: str) -> None:
    etag = client.get(path).headers["etag"]
    for known in (etag, f"W/{etag}", f'"a", {etag}', f'"a,b",W/{etag} , "c"', "*"):
        assert status_with(client, path, If_None_Match=known) == 304, known
    for other in ('"another"', etag.strip('"'), etag[:-2] + '"', 'W/"x"'):
        assert status_with(client, path, If_None_Match=other) == 200, other
    answer = client.get(path, headers=[("If-None-Match", '"a"'), ("If-None-Match", etag)])
    assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", etag)
    assert answer.headers["cache-control"] == client.get(path).headers["cache-control"]


def test_a_copy_that_is_known_by_its_date_is_not_sent_again(
    client: TestClient, services: Services, finished: str, path: str
) -> None:
    modified = client.get(path).headers["last-modified"]
    assert parsedate_to_datetime(modified).timestamp() == int(services.ledger.task(finished).finished_at or 0)
    assert status_with(client, path, If_Modified_Since=modified) == 304
    assert status_with(client, path, If_Modified_Since=LATER) == 304
    for date in (LONG_AGO, "yesterday", "", "Mon, 99 Nov 9999 99:99:99 GMT"):
        assert status_with(client, path, If_Modified_Since=date) == 200, date
    assert status_with(client, path, If_Modified_Since=modified, If_None_Match='"other"') == 200, "the tag decides"


def test_a_file_that_is_not_the_one_meant_is_refused(client: TestClient, path: str) -> None:
    etag, modified = (client.get(path).headers[name] for name in ("etag", "last-modified"))
    for meant in (etag, f'"a", {etag}', "*"):
        assert status_with(client, path, If_Match=meant) == 200, meant
    for other in ('"another"', f"W/{etag}"):
        assert status_with(client, path, If_Match=other) == 412, other
    assert status_with(client, path, If_Unmodified_Since=modified) == 200
    assert status_with(client, path, If_Unmodified_Since=LONG_AGO) == 412
    assert status_with(client, path, If_Unmodified_Since="yesterday") == 200
    assert status_with(client, path, If_Match=etag, If_Unmodified_Since=LONG_AGO) == 200, "the tag decides"
    assert status_with(client, path, If_Match=etag, If_None_Match=etag) == 304
    refused = client.get(path, headers={"If-Match": '"another"'}).json()["error"]
    assert (refused["code"], refused["param"]) == ("precondition_failed", "If-Match")


def test_a_part_is_sent_only_of_the_file_that_the_caller_has(client: TestClient, path: str) -> None:
    etag, modified = (client.get(path).headers[name] for name in ("etag", "last-modified"))
    for has in (etag, modified):
        answer = client.get(path, headers={"Range": "bytes=0-1", "If-Range": has})
        assert (answer.status_code, answer.content) == (206, VIDEO[:2]), has
    for has in ('"another"', f"W/{etag}", LONG_AGO, LATER, "yesterday"):
        answer = client.get(path, headers={"Range": "bytes=0-1", "If-Range": has})
        assert (answer.status_code, answer.content) == (200, VIDEO), has
    beyond = {"Range": f"bytes={len(VIDEO)}-"}
    assert client.get(path, headers=beyond | {"If-Range": '"another"'}).status_code == 200
    assert client.get(path, headers=beyond | {"If-Range": etag}).status_code == 416


def test_head_says_the_whole_size_whatever_part_is_asked_for(client: TestClient, path: str) -> None:
    for asked in ("bytes=0-1", f"bytes={len(VIDEO)}-", "bytes=0-1,4-5"):
        answer = client.head(path, headers={"Range": asked})
        assert (answer.status_code, answer.headers["content-length"]) == (200, str(len(VIDEO)))
        assert "content-range" not in answer.headers


@pytest.mark.parametrize(
    "asked", ["bytes=0-1,4-5", "bytes=5-2", "bytes=-", "bytes=a-b", "items=0-1", "0-1", "bytes 0-1"]
)
def test_several_ranges_and_what_is_none_are_answered_with_the_whole(client: TestClient, path: str, asked: str) -> None:
    answer = client.get(path, headers={"Range": asked})
    assert (answer.status_code, answer.content) == (200, VIDEO)


def test_a_preview_that_is_known_is_not_sent_again(client: TestClient, services: Services, claim: object) -> None:
    task_id = claim(upload(client)).task.task_id
    LivePreviews(services.queue.redis).put(task_id, b"RIFF....WEBP")
    etag = client.get(f"/preview/{task_id}").headers["etag"]
    for known in (f"W/{etag}", f'"a", {etag}', "*"):
        assert status_with(client, f"/preview/{task_id}", If_None_Match=known) == 304, known
    assert status_with(client, f"/preview/{task_id}", If_None_Match=etag.strip('"')) == 200
