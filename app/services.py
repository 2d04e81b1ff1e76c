"""What endpoints are given."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated

from fastapi import Depends, Header, Request, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from pydantic import AfterValidator

from app.estimate import QueueForecasts
from app.fetch import Fetcher
from core.concurrency import ConcurrencyLimit
from core.config.settings import Settings
from core.ledger.keys import Keys
from core.ledger.moves import Ledger
from core.links import signed
from core.queue import StepQueue
from core.storage import Storage
from core.text import check_text
from sandbox.decoder import Decoder

LISTENERS, WAITING, UPLOADS = 800, 64, 64


@dataclass(frozen=True)
class Services:
    """What an API server has at hand for every request, from its start to its end."""

    settings: Settings
    ledger: Ledger
    storage: Storage
    queue: StepQueue
    decoder: Decoder = field(default_factory=Decoder)
    fetcher: Fetcher = field(default_factory=Fetcher)
    listeners: ConcurrencyLimit = field(
        default_factory=lambda: ConcurrencyLimit(LISTENERS, "as many listen as may at once")
    )
    """Connections on which events are told."""
    waiting: ConcurrencyLimit = field(
        default_factory=lambda: ConcurrencyLimit(WAITING, "as many wait for the answer to their request as may at once")
    )
    uploads: ConcurrencyLimit = field(
        default_factory=lambda: ConcurrencyLimit(UPLOADS, "as many uploads are coming in as may at once")
    )
    """Each lies in the temporary folder as it comes in."""

    @cached_property
    def forecasts(self) -> QueueForecasts:
        return QueueForecasts(self.ledger)


@dataclass(frozen=True)
class Caller:
    """Whose request this is: found by app/middleware/auth.py."""

    owner: str
    """The key's id, and the owner of what is made with it; empty if no key was asked for."""
    name: str
    admin: bool
    shown: str = ""
    """The SHA-256 of the key's text; empty if no key was asked for."""
    link_owner: str = ""
    """Who made what a signed link opens: the link is theirs, whoever follows it."""

    @property
    def account(self) -> str:
        """Whose turns and bytes these are; empty: nobody's, as without keys."""
        return self.owner or self.link_owner

    @property
    def sees(self) -> str | None:
        """Whose tasks; None: all."""
        return None if self.admin else self.owner


@dataclass(frozen=True)
class Links:
    """Absolute URLs, as the caller reaches this service. Where keys are asked for, a result's opens without one."""

    base: str
    keys: Keys
    ttl: int

    def status(self, task_id: str) -> str:
        return f"{self.base}/status/{task_id}"

    def preview(self, task_id: str) -> str:
        return f"{self.base}/preview/{task_id}"

    def result(self, task_id: str, owner: str, what: str = "") -> str:
        path = f"/results/{task_id}{what}"
        return self.base + (signed(path, self.keys.link_secret, self.ttl) if owner else path)


async def _services(request: Request) -> Services:  # async: a plain function would cost a change of thread
    services: Services = request.app.state.services
    return services


async def _caller(
    request: Request,
    # For the OpenAPI document: app/middleware/auth.py has read them.
    _bearer: Annotated[HTTPAuthorizationCredentials | None, Security(HTTPBearer(auto_error=False))],
    _key: Annotated[str | None, Security(APIKeyHeader(name="X-API-Key", auto_error=False))],
) -> Caller:
    caller: Caller = request.state.caller
    return caller


def links_of(request: Request, services: Services) -> Links:
    base = (services.settings.public_url or str(request.base_url)).rstrip("/")
    return Links(base, services.ledger.keys, services.settings.link_ttl)


async def _links(request: Request, services: Annotated[Services, Depends(_services)]) -> Links:
    return links_of(request, services)


ServicesDep = Annotated[Services, Depends(_services)]
CallerDep = Annotated[Caller, Depends(_caller)]
LinksDep = Annotated[Links, Depends(_links)]


def _can_be_kept(retry_key: str | None) -> str | None:
    if retry_key:
        check_text("Idempotency-Key", retry_key)
    return retry_key


RetryKey = Annotated[
    str | None,
    AfterValidator(_can_be_kept),
    Header(min_length=1, max_length=255, alias="Idempotency-Key", description="The same request, sent again"),
]
needs_key = Depends(_caller)
