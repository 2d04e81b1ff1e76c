"""Requests that ask for another protocol, as Java's client and `curl --http2` do with each one: they are answered as if
they had not asked, which RFC 9110 (7.8) allows."""

from typing import TYPE_CHECKING

import httptools

if TYPE_CHECKING:
    from app.middleware.slow_clients import BoundedHttp

RENAMED = {b"upgrade": b"x-kinora-upgrade"}


class OneProtocolParser(httptools.HttpRequestParser):
    """Reads the body of such a request too, which httptools takes for the beginning of the other protocol."""

    def __init__(self, http: "BoundedHttp") -> None:
        self._http = http
        self._begin()

    def _begin(self) -> None:
        super().__init__(self._http)
        self.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has it

    def feed_data(self, data: bytes) -> None:  # type: ignore[override]  # narrower
        while data:
            try:
                super().feed_data(data)
                return
            except httptools.HttpParserUpgrade as asked:
                data = self._head_without_upgrade() + data[asked.args[0] :]
                self._begin()

    def _head_without_upgrade(self) -> bytes:
        """Raises HttpParserError for CONNECT, which has no other reading."""
        if self.get_method() == b"CONNECT":
            raise httptools.HttpParserError
        line = b"%b %b HTTP/%b" % (self.get_method(), self._http.url, self.get_http_version().encode())
        # Under another name and not left out: there are as many headers as were sent, which SlowClients counts.
        headers = [b"%b: %b" % (RENAMED.get(name, name), text) for name, text in self._http.headers]
        return b"\r\n".join([line, *headers, b"", b""])
