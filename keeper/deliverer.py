"""Tells callbacks: takes the deliveries that are due and posts them, many at once, to each URL a few at a time.

At least once: a try whose answer was not recorded is made again, with the same id. Each try judges anew where it goes
(core/outbound.py): since the last one, the name may have got another address.
"""

import asyncio
import contextlib
import json
import random
import socket
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import httpx2
import structlog

from core.callbacks.deliveries import Deliveries, Delivery
from core.callbacks.endpoints import Endpoints
from core.callbacks.payloads import payload_of
from core.config.settings import Settings
from core.errors import InvalidRequest, TaskNotFound, Unavailable
from core.ledger.moves import Ledger
from core.links import signed
from core.outbound import OutboundUrl, check_outbound_url
from keeper.signature import signed_headers

LOOK_SECONDS = 0.5
TRY_TIMEOUT_SECONDS = 15.0
CONNECT_SECONDS = 5.0
AT_ONCE = 200
# A slow URL may hold this many tries, a host of many slow URLs and an owner of many slow hosts that many; the rest are
# for others. So up to six slow URLs of a host leave a place for its others; seven hold all of the host's up.
AT_ONCE_PER = {"url": 4, "host": 25, "owner": 50}
BATCH = 8  # looked up at once
GONE = 410
LEDGER_THREADS = 4

Result = TypeVar("Result")

log = structlog.get_logger(__name__)


class Deliverer:
    def __init__(self, ledger: Ledger, settings: Settings) -> None:
        self.ledger = ledger
        self.deliveries: Deliveries = ledger.deliveries
        self.endpoints: Endpoints = ledger.endpoints
        self.settings, self.keys = settings, ledger.keys
        self._running: set[asyncio.Task[None]] = set()
        self._tries: dict[str, Counter[str]] = {column: Counter() for column in AT_ONCE_PER}
        self._freed = asyncio.Event()
        self._tls = httpx2.create_ssl_context(trust_env=False)
        # Apart from asyncio's own threads, which may all be waiting for a resolver.
        self._ledger_threads = ThreadPoolExecutor(LEDGER_THREADS, thread_name_prefix="deliverer-ledger")

    def start(self, ended: threading.Event) -> threading.Thread:
        """In a thread of its own, until `ended` is set: what is slow there holds up no other duty."""
        thread = threading.Thread(target=lambda: asyncio.run(self.deliver(ended)), name="deliverer", daemon=True)
        thread.start()
        return thread

    async def _ask(self, what: Callable[..., Result], *given: Any) -> Result:
        """The ledger, without holding up the loop."""
        return await asyncio.get_running_loop().run_in_executor(self._ledger_threads, what, *given)

    async def deliver(self, ended: threading.Event) -> None:
        # Names are resolved in these; a resolver that hangs keeps its thread.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(AT_ONCE))
        while not ended.is_set():
            self._freed.clear()
            try:
                await self._begin_due(ended)
            except Unavailable as error:
                log.warning("deliveries_postponed", reason=error.message)
            except Exception:
                log.exception("deliveries_failed")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._freed.wait(), LOOK_SECONDS)
        for running in self._running:  # tried again by the next keeper
            running.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        self._ledger_threads.shutdown()  # what is being recorded is recorded

    async def _begin_due(self, ended: threading.Event) -> None:
        while (free := AT_ONCE - len(self._running)) and not ended.is_set():
            found = await self._ask(partial(self.deliveries.due, min(free, BATCH), **self._busy()))
            for delivery in found:
                if self._is_busy(delivery):
                    continue
                taken = await self._ask(self.deliveries.take, delivery.delivery_id)
                if taken:
                    self._count(taken, 1)
                    task = asyncio.create_task(self._try(taken))
                    self._running.add(task)
                    task.add_done_callback(partial(self._let_go, taken))
            if not found:
                return

    def _busy(self) -> dict[str, set[str]]:
        """Return, by column, what has as many tries under way as it may."""
        return {
            column: {value for value, count in counts.items() if count >= AT_ONCE_PER[column]}
            for column, counts in self._tries.items()
        }

    def _is_busy(self, delivery: Delivery) -> bool:
        return any(getattr(delivery, column) in values for column, values in self._busy().items())

    def _count(self, delivery: Delivery, more: int) -> None:
        for column, counts in self._tries.items():
            counts[value := getattr(delivery, column)] += more
            if not counts[value]:
                del counts[value]

    def _let_go(self, delivery: Delivery, ended: asyncio.Task[None]) -> None:
        """Give up the place of a try. Another one that may have waited for it does not wait for the next look."""
        if self._is_busy(delivery) or len(self._running) >= AT_ONCE:
            self._freed.set()
        self._count(delivery, -1)
        self._running.discard(ended)

    async def _try(self, delivery: Delivery) -> None:
        names = {"delivery_id": delivery.delivery_id, "task_id": delivery.task_id, "tells": delivery.event}
        try:
            answered, error = await self._post(delivery)
            await self._ask(self._record, delivery, answered, error)
            # Not what went wrong: that may quote the URL. The owner's list of deliveries has it.
            log.info("callback_tried", **names, number=delivery.tries + 1, http_status=answered, arrived=not error)
        except TaskNotFound:  # it was forgotten, and this with it
            log.info("callback_forgotten", **names)
        except Unavailable as unavailable:
            log.warning("callback_not_recorded", **names, reason=unavailable.message)
        except Exception:
            log.exception("callback_failed", **names)

    async def _post(self, delivery: Delivery) -> tuple[int | None, str | None]:
        """The status that was answered, if any, and what went wrong, if anything."""
        body = await self._ask(self._body, delivery)
        secret = await self._ask(self.endpoints.secret, delivery.owner)
        try:
            destination = check_outbound_url(delivery.url, self.settings.fetch_allow, "the URL", https_only=True)
            async with asyncio.timeout(TRY_TIMEOUT_SECONDS):
                status = await self._send(destination, body, signed_headers(delivery, body, secret))
        except TimeoutError:
            return None, f"no answer within {TRY_TIMEOUT_SECONDS:g} s"
        except socket.gaierror:
            return None, "its host has no address"
        except (httpx2.HTTPError, httpx2.InvalidURL, InvalidRequest) as error:
            return None, str(error) or type(error).__name__
        except Exception as error:  # whatever a strange URL does to a library is a failed try too
            log.exception("callback_failed", delivery_id=delivery.delivery_id)
            return None, type(error).__name__
        return status, None if 200 <= status < 300 else f"it answered {status}"

    async def _send(self, destination: OutboundUrl, body: str, headers: dict[str, str]) -> int:
        """To the first address that can be connected to."""
        *others, last = await asyncio.to_thread(destination.addresses)
        for address in others:
            with contextlib.suppress(httpx2.ConnectError, httpx2.ConnectTimeout):
                return await self._send_to(address, destination, body, headers)
        return await self._send_to(last, destination, body, headers)

    async def _send_to(self, address: str, destination: OutboundUrl, body: str, headers: dict[str, str]) -> int:
        # A client for each try: a connection that was opened for one name must not carry what is meant for another
        # at the same address. Redirects are failures, and no proxy or .netrc of this machine has a say.
        timeout = httpx2.Timeout(TRY_TIMEOUT_SECONDS, connect=CONNECT_SECONDS)
        headers, names = headers | {"host": destination.host_header}, {"sni_hostname": destination.host}
        async with (
            httpx2.AsyncClient(verify=self._tls, trust_env=False, timeout=timeout) as client,
            # Streamed, so that nobody can make the keeper read a long answer.
            client.stream(
                "POST", destination.url_at(address), content=body, headers=headers, extensions=names
            ) as response,
        ):
            return response.status_code

    def _body(self, delivery: Delivery) -> str:
        task = self.ledger.task(delivery.task_id)
        return json.dumps(payload_of(delivery).body(delivery, task, self._result_url(delivery)))

    def _result_url(self, delivery: Delivery) -> str:
        """Only a path if PUBLIC_URL is not set. Signed anew at each try, if keys are asked for, but for a key
        that was revoked."""
        path = f"/results/{delivery.task_id}"
        if delivery.owner and self.keys.is_live(delivery.owner):
            path = signed(path, self.keys.link_secret, self.settings.link_ttl)
        return self.settings.public_url.rstrip("/") + path

    def _record(self, delivery: Delivery, answered: int | None, error: str | None) -> None:
        if answered == GONE and error:
            self.deliveries.gone(delivery, answered, error)
        elif error or answered is None:
            jitter = random.uniform(-1, 1)  # noqa: S311 - nobody gains by guessing it
            self.deliveries.missed(delivery, answered, error or "no answer", jitter)
        else:
            self.deliveries.arrived(delivery, answered)
