"""Fetches a picture from where a caller says it is. core/outbound.py judges where that may be.

Nothing there is trusted: neither the name's second answer, nor how long it takes, nor how much it says will come.
What the bytes are is judged like any upload's.
"""

import asyncio
import contextlib
import functools
import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx2
import structlog

from core.concurrency import ConcurrencyLimit
from core.config.settings import Settings
from core.errors import FetchFailed, UploadTooLarge
from core.outbound import OutboundUrl, check_outbound_url

# From the first question to the resolver to the last byte.
FETCH_SECONDS = 20.0
CONNECT_SECONDS = 5.0
AT_ONCE = 4

HEADERS = {
    "accept": "image/jpeg, image/png, image/webp, image/avif, image/heic, image/gif, image/bmp",
    "accept-encoding": "identity",  # what is small on its way could be huge when unpacked
    "user-agent": "Kinora",
}

log = structlog.get_logger(__name__)


class Fetcher:
    """Safe to use from many threads."""

    def __init__(self) -> None:
        self.limit = ConcurrencyLimit(AT_ONCE, "as many pictures are being fetched as may be at once")
        # A resolver that hangs keeps its thread for longer than its fetch waits.
        self.resolvers = ThreadPoolExecutor(8 * AT_ONCE, thread_name_prefix="resolver")

    @contextmanager
    def fetched_picture(
        self, url: str, settings: Settings, owner: str = "", param: str = "image_url"
    ) -> Iterator[bytes]:
        """Yield what is at `url`, which stands in the field `param`. Its place among those who fetch is held for as
        long as it is in memory. Raises InvalidRequest for what the caller can mend, QueueFull if too many are being
        fetched, or too many of `owner`'s."""
        destination = check_outbound_url(url, settings.fetch_allow, param)
        with self.limit.slot(owner):
            try:
                picture = asyncio.run(self._fetch(destination, settings.max_upload_mb))
            except FetchFailed as failed:
                log.info("fetch_failed", host=destination.host, reason=failed.message)
                raise
            yield picture

    async def _fetch(self, destination: OutboundUrl, max_mb: int) -> bytes:
        try:
            async with asyncio.timeout(FETCH_SECONDS):
                *others, last = await asyncio.get_running_loop().run_in_executor(self.resolvers, destination.addresses)
                for address in others:
                    with contextlib.suppress(httpx2.ConnectError, httpx2.ConnectTimeout):
                        return await _get(destination, address, max_mb)
                return await _get(destination, last, max_mb)
        except TimeoutError as error:
            raise _failed(destination.param, f"it took more than {FETCH_SECONDS:g} s") from error
        except socket.gaierror as error:
            raise _failed(destination.param, "its host has no address") from error
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise _failed(destination.param, f"the connection failed ({type(error).__name__})") from error


async def _get(destination: OutboundUrl, address: str, max_mb: int) -> bytes:
    timeout = httpx2.Timeout(FETCH_SECONDS, connect=CONNECT_SECONDS)
    headers, names = HEADERS | {"host": destination.host_header}, {"sni_hostname": destination.host}
    # Redirects are failures, and no proxy or .netrc of this machine has a say in where this goes.
    async with (
        httpx2.AsyncClient(verify=_tls(), trust_env=False, timeout=timeout) as client,
        client.stream("GET", destination.url_at(address), headers=headers, extensions=names) as response,
    ):
        return await _read(response, destination.param, max_mb)


async def _read(response: httpx2.Response, param: str, max_mb: int) -> bytes:
    if response.status_code != 200:
        raise _failed(param, f"it answered {response.status_code}")
    if response.headers.get("content-encoding", "identity") != "identity":
        raise _failed(param, "it came compressed, which was not asked for")
    too_large = UploadTooLarge(f"the picture may have at most {max_mb} MB", param=param)
    if int(response.headers.get("content-length", 0)) > max_mb * 1_000_000:
        raise too_large
    picture = bytearray()
    async for part in response.aiter_raw():
        picture += part
        if len(picture) > max_mb * 1_000_000:
            raise too_large
    return bytes(picture)


def _failed(param: str, why: str) -> FetchFailed:
    return FetchFailed(f"{param} could not be fetched: {why}", param=param)


@functools.cache
def _tls() -> ssl.SSLContext:
    """Reading the trusted certificates takes longer than many a fetch."""
    return httpx2.create_ssl_context(trust_env=False)
