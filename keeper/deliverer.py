"""Tells callbacks: takes the deliveries that are due and posts them, many at once, each host a few at a time.

At least once: a try whose answer was not recorded is made again, with the same id.
"""

import asyncio
import json
import random
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, TypeVar

import httpx2
import structlog
from standardwebhooks import Webhook

from core.deliveries import Deliveries, Delivery, moment
from core.destination import check_destination
from core.endpoints import Endpoints
from core.errors import InvalidParameter, Unavailable
from core.ledger import Ledger

LOOK_SECONDS = 0.5
TRY_TIMEOUT_SECONDS = 15.0
# A slow host may hold this many tries; the rest of all tries are for others.
AT_ONCE, AT_ONCE_PER_HOST = 200, 4
GONE = 410
LEDGER_THREADS = 4

Result = TypeVar("Result")

log = structlog.get_logger(__name__)


class Deliverer:
    def __init__(self, ledger: Ledger, public_url: str) -> None:
        self.deliveries: Deliveries = ledger.deliveries
        self.endpoints: Endpoints = ledger.endpoints
        self.public_url = public_url.rstrip("/")
        self._running: set[asyncio.Task[None]] = set()
        self._hosts: Counter[str] = Counter()
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
        # asyncio resolves names in these; a resolver that hangs keeps its thread.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(AT_ONCE))
        # Redirects are failures, and no proxy or .netrc of this machine has a say in where callbacks go.
        async with httpx2.AsyncClient(timeout=TRY_TIMEOUT_SECONDS, trust_env=False, limits=httpx2.Limits()) as client:
            while not ended.is_set():
                try:
                    await self._begin_due(client, ended)
                except Unavailable as error:
                    log.warning("deliveries_postponed", reason=error.message)
                except Exception:
                    log.exception("deliveries_failed")
                await asyncio.sleep(LOOK_SECONDS)
            for running in self._running:  # tried again by the next keeper
                running.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)

    async def _begin_due(self, client: httpx2.AsyncClient, ended: threading.Event) -> None:
        while (free := AT_ONCE - len(self._running)) and not ended.is_set():
            busy = {host for host, count in self._hosts.items() if count >= AT_ONCE_PER_HOST}
            found = await self._ask(self.deliveries.due, busy, min(free, 2 * AT_ONCE_PER_HOST))
            for delivery in found:
                if self._hosts[delivery.host] >= AT_ONCE_PER_HOST:
                    continue
                taken = await self._ask(self.deliveries.take, delivery.delivery_id)
                if taken:
                    self._hosts[taken.host] += 1
                    task = asyncio.create_task(self._try(client, taken))
                    self._running.add(task)
                    task.add_done_callback(self._running.discard)
            if not found:
                return

    async def _try(self, client: httpx2.AsyncClient, delivery: Delivery) -> None:
        names = {"delivery_id": delivery.delivery_id, "task_id": delivery.task_id, "tells": delivery.event}
        try:
            answered, error = await self._post(client, delivery)
            await self._ask(self._record, delivery, answered, error)
            log.info("callback_tried", **names, number=delivery.tries + 1, http_status=answered, error=error)
        except Unavailable as unavailable:
            log.warning("callback_not_recorded", **names, reason=unavailable.message)
        except Exception:
            log.exception("callback_failed", **names)
        finally:
            self._hosts[delivery.host] -= 1
            self._hosts += Counter()  # which drops those at zero

    async def _post(self, client: httpx2.AsyncClient, delivery: Delivery) -> tuple[int | None, str | None]:
        """The status that was answered, if any, and what went wrong, if anything."""
        body = body_of(delivery, self.public_url)
        secret = await self._ask(self.endpoints.secret, delivery.owner)
        try:
            check_destination(delivery.url)
            async with asyncio.timeout(TRY_TIMEOUT_SECONDS):
                # Streamed, so that nobody can make the keeper read a long answer.
                async with client.stream(
                    "POST", delivery.url, content=body, headers=headers_of(delivery, body, secret)
                ) as response:
                    status = response.status_code
        except TimeoutError:
            return None, f"no answer within {TRY_TIMEOUT_SECONDS:g} s"
        except (httpx2.HTTPError, httpx2.InvalidURL, InvalidParameter) as error:
            return None, str(error) or type(error).__name__
        except Exception as error:  # whatever a strange URL does to a library is a failed try too
            log.exception("callback_failed", delivery_id=delivery.delivery_id)
            return None, type(error).__name__
        return status, None if 200 <= status < 300 else f"it answered {status}"

    def _record(self, delivery: Delivery, answered: int | None, error: str | None) -> None:
        if answered == GONE and error:
            self.deliveries.gone(delivery, answered, error)
        elif error or answered is None:
            jitter = random.uniform(-1, 1)  # noqa: S311 - nobody gains by guessing it
            self.deliveries.missed(delivery, answered, error or "no answer", jitter)
        else:
            self.deliveries.arrived(delivery, answered)


def body_of(delivery: Delivery, public_url: str) -> str:
    """The payload as Standard Webhooks has it. `result_url` is a path where PUBLIC_URL is not set."""
    data = delivery.data | {"result_url": f"{public_url}/results/{delivery.task_id}"}
    return json.dumps({"type": delivery.event, "timestamp": moment(delivery.created_at), "data": data})


def headers_of(delivery: Delivery, body: str, secret: str) -> dict[str, str]:
    """The same id at each try, and a fresh timestamp."""
    at = datetime.now(UTC)
    return {
        "content-type": "application/json",
        "user-agent": "Kinora",
        "webhook-id": delivery.delivery_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(secret).sign(delivery.delivery_id, at, body),
    }
