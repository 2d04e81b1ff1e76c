"""Requests that ask for another protocol, over a real port: each is answered as if it had not asked."""

from core.config.settings import Settings
from tests.app.test_slow_clients import answer_to, served

ASKED = (
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\n",
    b"Connection: keep-alive, Upgrade\r\nUPGRADE: websocket\r\nUpgrade: h2c\r\n",
)
HEAD = b"POST /v1/predictions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
# More than comes in one piece, and what would be a request where a body is taken for one.
BODY = b'{"version": "preview", "input": {"prompt": "' + b"x" * 60_000 + b'"}}\r\nGET /docs HTTP/1.1\r\n\r\n'
SIZED = b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
LAST = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade, close\r\nUpgrade: h2c\r\n\r\n"


def test_a_body_is_read_and_the_connection_goes_on(settings: Settings) -> None:
    with served(settings) as port:
        for asked in ASKED:
            for body in (SIZED, CHUNKED):
                answer = answer_to(HEAD + asked + body + HEAD + asked + body + LAST, port)
                assert answer.count(b"HTTP/1.1 ") == 3
                assert answer.count(b'"detail":"the body is no JSON"') == 2, "for what stands behind it"
                assert answer.endswith(b'{"status":"ok"}')


def some(headers: int) -> bytes:
    return b"".join(b"X-%d: 1\r\n" % number for number in range(headers))


def test_one_with_more_than_100_headers_is_refused_as_any_other_is(settings: Settings) -> None:
    """HEAD has two of them, the first of ASKED three, and a body one."""
    with served(settings) as port:
        for body in (SIZED, CHUNKED):
            assert answer_to(HEAD + some(94) + ASKED[0] + body + LAST, port).startswith(b"HTTP/1.1 400"), "by its route"
            for asked in (
                some(95) + ASKED[0],
                ASKED[0] + some(95),
                some(200) + ASKED[0],
                ASKED[0] + some(200),
                some(98),
            ):
                answer = answer_to(HEAD + asked + body + LAST, port)
                assert answer.startswith(b"HTTP/1.1 431")
                assert b'"too_many_headers"' in answer
                assert answer.count(b"HTTP/1.1 ") == 1, "its body is taken for no request"


def test_connect_is_refused(settings: Settings) -> None:
    with served(settings) as port:
        answer = answer_to(b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n", port)
    assert answer.startswith(b"HTTP/1.1 400")
    assert answer.count(b"HTTP/1.1 ") == 1
