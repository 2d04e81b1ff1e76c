"""Links that open one result without a key: signed, for reading only, and only for a while.

Whoever has the link has the video: it is a secret like a key, and stands in no log.
"""

import base64
import hashlib
import hmac
import time


def signed(path: str, secret: bytes, ttl: int) -> str:
    """`path` with an expiry, `ttl` seconds from now, and the HMAC-SHA-256 of both."""
    expires = str(int(time.time()) + ttl)
    return f"{path}?expires={expires}&signature={_signature(path, expires, secret)}"


def opens(path: str, expires: str, signature: str, secret: bytes) -> bool:
    """Whether `signature` was made for this very path and time, and the time is not over."""
    if not hmac.compare_digest(_signature(path, expires, secret).encode(), signature.encode()):
        return False
    return int(expires) > time.time()  # signed by us, so it is a number


def _signature(path: str, expires: str, secret: bytes) -> str:
    # GET stands for the method: a link never changes anything.
    made = hmac.digest(secret, f"GET\n{path}\n{expires}".encode(), hashlib.sha256)
    return base64.urlsafe_b64encode(made).rstrip(b"=").decode()
