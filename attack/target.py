"""What an attacker knows of the service, and how much of an attack is made."""

from dataclasses import dataclass, field
from typing import Any

import httpx2

# There is no option for another: whoever runs this attacks a service that was started for it.
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Target:
    port: int
    metrics_port: int
    """Of the worker."""
    redis_port: int
    key: str = field(repr=False)
    """The attacker's own."""
    seconds: float
    scale: float = 1.0
    """Which share of the connections, bytes and parts of an attack there is: less than 1 in CI."""

    def some(self, most: int) -> int:
        return max(1, round(most * self.scale))

    def request(self, method: str, path: str, headers: dict[str, str] | None = None, **content: Any) -> bytes:
        """Return all bytes of a request with the attacker's key. `content` is as httpx2.Request takes it."""
        told = {"Authorization": f"Bearer {self.key}", "Connection": "close"} | (headers or {})
        made = httpx2.Request(method, f"http://{LOOPBACK}:{self.port}{path}", headers=told, **content)
        lines = [b"%s %s HTTP/1.1" % (method.encode(), made.url.raw_path)]
        lines += [b"%s: %s" % header for header in made.headers.raw]
        return b"\r\n".join(lines) + b"\r\n\r\n" + made.read()
