"""Who calls: found out before anything of the body is read, for every path but those that are listed here."""

import ipaddress
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial

import structlog
from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import refusal
from app.key_rates import KeyRate
from app.middleware.base import Middleware
from app.middleware.browser_guard import check_browser
from app.middleware.failed_keys import FailedKeys
from app.middleware.key_turns import KeyTurns
from app.middleware.limiter import Allowance, Limiter
from app.route_path import route_path
from app.services import Caller, Services
from core.config.settings import Settings
from core.errors import KinoraError, LedgerUnavailable, RateLimited, TaskNotFound, Unauthorized, UntrustedHost
from core.ledger.keys import digest
from core.links import opens

# What anyone may ask: whether this process lives, how the API looks, and the page, which holds nothing of anyone's.
PUBLIC = ("/", "/health/live", "/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json")
PUBLIC_FOLDERS = ("/static-offline-docs/", "/studio/")
# What anyone may ask too; who has a key is told more.
OPEN_TO_STRANGERS = ("/health",)
# What must tell that the ledger is away, though nobody can be known without it.
TOLD_WITHOUT_LEDGER = ("/health", "/metrics")
LINKED = "/results/"
READING = ("GET", "HEAD")
# What proxies add.
FORWARDED = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip")

STRANGER = Caller("", "", admin=False)
ANYONE = Caller("", "", admin=True)  # if no key is asked for, everything is everyone's


class Authentication(Middleware):
    """Puts the `Caller` into the request's state, or answers 401, 429 or 503 itself."""

    def __init__(self, app: ASGIApp, limiter: Limiter) -> None:
        super().__init__(app)
        self.limiter = limiter
        self.failed_keys = FailedKeys()
        self.turns = KeyTurns()
        self.rate = KeyRate()

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = route_path(scope)
        if (path.rstrip("/") or "/") in PUBLIC or path.startswith(PUBLIC_FOLDERS):
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        async with AsyncExitStack() as turn:
            if request.method in READING and (text := key_in(request)):
                await turn.enter_async_context(self.turns.of(text))
            await self._let_in(request, turn, receive, partial(self._tell_allowance, request, turn, send))

    async def _let_in(self, request: Request, turn: AsyncExitStack, receive: Receive, send: Send) -> None:
        scope = request.scope
        try:
            request.state.caller = await self.failed_keys.look_up(key_in(request), self._admit, request)
        except KinoraError as error:
            await refusal(request, error)(scope, receive, send)
            return
        caller: Caller = request.state.caller
        structlog.contextvars.bind_contextvars(key=caller.name)
        if caller.link_owner:
            await turn.enter_async_context(self.turns.of(caller.link_owner))
        if caller.account:
            receive, send = self.rate.receiving(caller.account, receive), self.rate.sending(caller.account, send)
        await self.app(scope, receive, send)

    def _admit(self, request: Request) -> Caller:
        """Raises what `identify` does, and RateLimited."""
        caller = identify(request.app.state.services, request)
        if caller.owner:
            allowance = request.state.allowance = self.limiter.hit(caller.owner)
            if allowance and not allowance.granted:
                raise RateLimited(f"this key may send {self.limiter.rule}", retry_after=allowance.seconds)
        return caller

    async def _tell_allowance(self, request: Request, turn: AsyncExitStack, send: Send, message: Message) -> None:
        await turn.aclose()  # what is streamed, or waits for events, comes after
        allowance: Allowance | None = getattr(request.state, "allowance", None)
        if message["type"] == "http.response.start" and allowance:
            message["headers"] = [*message.get("headers", []), *allowance.headers]
        await send(message)


def identify(services: Services, request: Request) -> Caller:
    """Raises Unauthorized, UntrustedHost, OriginForbidden, LedgerUnavailable."""
    if services.settings.auth == "off":
        return without_key(request, services.settings)
    # Not request.url.path: Starlette puts a URL together from the Host header, which can hold a path of its own.
    text, path = key_in(request), route_path(request.scope)
    try:
        key = services.ledger.keys.find(text) if text else None
        if key and text:
            return Caller(key.key_id, key.name, key.admin, digest(text))
        if is_open(services, request):
            return without_key(request, services.settings)
    except LedgerUnavailable:
        if path in TOLD_WITHOUT_LEDGER:
            return STRANGER
        raise
    if text is None and path in OPEN_TO_STRANGERS:
        return STRANGER
    if text is None and path.startswith(LINKED) and request.method in READING:
        expires, signature = (request.query_params.get(name, "") for name in ("expires", "signature"))
        if signature and opens(path, expires, signature, services.ledger.keys.link_secret):
            return by_link(services, path)
    raise Unauthorized("an API key is needed, as Authorization: Bearer … or X-API-Key" if not text else "no such key")


def by_link(services: Services, path: str) -> Caller:
    """The caller of a signed link to `path`, and of nothing else."""
    try:
        return replace(ANYONE, link_owner=services.ledger.task(path.split("/")[2]).owner)
    except TaskNotFound:
        return ANYONE


def without_key(request: Request, settings: Settings) -> Caller:
    """The caller where nobody is asked for a key. Raises UntrustedHost, OriginForbidden."""
    try:
        check_browser(request, settings)
    except UntrustedHost:  # as of a load balancer, which may name none
        if route_path(request.scope) in OPEN_TO_STRANGERS:
            return STRANGER
        raise
    return ANYONE


def key_in(request: Request) -> str | None:
    scheme, _, text = request.headers.get("authorization", "").partition(" ")
    # Replicate's documentation had `Token` for years.
    return text.strip() if scheme.lower() in ("bearer", "token") else request.headers.get("x-api-key")


def is_open(services: Services, request: Request) -> bool:
    """Whether no key is asked for: on this machine only, and only until the first one is made. A request that came
    through a proxy, or by another address of this machine, is not from this machine."""
    settings, address = services.settings, request.scope.get("server") or ("", 0)
    if settings.auth != "auto" or not is_loopback(settings.api_host) or is_elsewhere(address[0]):
        return False
    return not any(name in request.headers for name in FORWARDED) and not services.ledger.keys.any()


def is_elsewhere(address: str) -> bool:
    try:
        return not ipaddress.ip_address(address).is_loopback
    except ValueError:  # no address but a name: no server gives one
        return False


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def lets_everyone_in(settings: Settings) -> bool:
    """Whether nobody is asked for a key, as far as the settings say: on loopback the first key changes that."""
    return settings.auth == "off" or (settings.auth == "auto" and is_loopback(settings.api_host))
