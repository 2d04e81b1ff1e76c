"""Loopback is reached without a proxy, whatever http_proxy and its kind say: a proxy would look on its own machine."""

import os

LOOPBACK = "127.0.0.1,localhost,::1"


def reach_loopback_directly() -> None:
    """Name loopback in NO_PROXY, which every library here reads. To be called before the first of them is used."""
    named = os.environ.get("no_proxy") or os.environ.get("NO_PROXY", "")
    if named != "*":  # which stands alone
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = f"{LOOPBACK},{named}".rstrip(",")
