"""Bodies that no client would send, to the reader of forms. scripts/fuzz sends more of them."""

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.pictures import CAT, png
from tests.app.conftest import FUZZ_EXAMPLES

# What a form is made of, and what nearly is.
PIECES = [
    b"--x\r\n",
    b"--x--\r\n",
    b"--x",
    b"\r\n",
    b"\n",
    b'Content-Disposition: form-data; name="file"; filename="a.png"\r\n',
    b'Content-Disposition: form-data; name="width"\r\n',
    b"Content-Disposition: form-data; name*=utf-8''f%00ile; filename=\"\r\n",
    b'Content-Disposition: form-data; name="' + b"a" * 5000 + b'"\r\n',
    b"Content-Disposition: attachment\r\n",
    b"Content-Type: image/png\r\n",
    b"Content-Type: text/plain; charset=utf-7\r\n",
    b"Content-Transfer-Encoding: base64\r\n",
    b"X: " + b"y" * 9000 + b"\r\n",
    b"\r\n\r\n",
    b"64",
    b"\0",
    b"\xff\xfe",
    png(16, 16),
]
BODIES = st.lists(st.sampled_from(PIECES) | st.binary(max_size=50), max_size=30).map(b"".join)
TYPES = st.sampled_from(
    [
        "multipart/form-data; boundary=x",
        "multipart/form-data; boundary=",
        "multipart/form-data",
        "multipart/form-data; boundary=" + "x" * 300,
        'multipart/form-data; boundary="x"; charset=no-such',
        "multipart/form-data; boundary=x; charset=punycode",
        "multipart/form-data; boundary=x; charset=utf-16",
        "multipart/form-data; boundary=x; charset=idna",
        "multipart/mixed; boundary=x",
        "application/x-www-form-urlencoded",
        "application/json",
        "",
    ]
)


@pytest.mark.fuzz
@settings(max_examples=FUZZ_EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(body=BODIES, media_type=TYPES)
def test_any_body_is_taken_or_refused_in_words(client: TestClient, body: bytes, media_type: str) -> None:
    answer = client.post("/generate", content=body, headers={"Content-Type": media_type})
    assert answer.status_code in (202, 400, 413, 415, 422), (answer.status_code, answer.text)
    if answer.status_code != 202:
        assert answer.json()["error"]["code"]


FORM = {
    "/generate": "file",
    "/v1/videos": "input_reference",
    "/v1/videos/sync": "input_reference",
    "/v2beta/image-to-video": "image",
    "/v1/files": "content",
}


@pytest.mark.parametrize(("path", "field"), FORM.items())
def test_a_form_that_ends_before_its_last_boundary_is_refused(client: TestClient, path: str, field: str) -> None:
    """A proxy or a client that gave up in the middle: what is missing may be a field, or half of the picture."""
    name = f'Content-Disposition: form-data; name="{field}"; filename="a.png"\r\n\r\n'.encode()
    whole = (
        b"--x\r\n" + name + CAT + b"\r\n--x\r\n" + b'Content-Disposition: form-data; name="seed"\r\n\r\n7\r\n--x--\r\n'
    )
    as_form = {"Content-Type": "multipart/form-data; boundary=x"}
    ends = [
        whole.index(CAT) + len(CAT) // 2,
        whole.index(b"\r\n--x\r\n"),
        *(len(whole) - cut for cut in (4, 7, 10, 60)),
    ]
    for end in ends:
        answer = client.post(path, content=whole[:end], headers=as_form)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_request"), whole[end - 20 : end]
        assert answer.json()["error"]["message"] == "the form ends before its last boundary"
    assert client.get("/tasks").json()["tasks"] == []
