"""Each error as an HTTP answer: one JSON shape, a status for each class, and the same for the OpenAPI document."""

import asyncio
from collections import defaultdict
from contextlib import suppress
from typing import Any, cast

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.key_rates import KeyRate
from app.route_path import route_path
from app.validation import invalid_parameter
from core import errors
from core.errors import KinoraError, Retry

log = structlog.get_logger(__name__)

RETRY_AFTER_SECONDS = 5
LINGER_SECONDS = 2.0
DISCARDED = KeyRate()  # for all together: whoever has no key can send what nobody reads
MOST_SAID = 1000  # characters of a message, which may name what was sent, and of the field's name

# What Starlette and FastAPI refuse by themselves.
CODES = {
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: errors.UploadTooLarge.code,
    415: "content_type_unsupported",
    431: "too_many_headers",
}


class Error(BaseModel):
    code: str
    message: str
    type: str
    param: str | None


class ErrorBody(BaseModel):
    error: Error


# By reference: for a `model` FastAPI builds a validator, ten of them a route, which no answer needs.
ERROR_SCHEMA = {"schema": {"$ref": f"#/components/schemas/{ErrorBody.__name__}"}}


def error_body(status: int, code: str, message: str, param: str | None) -> ErrorBody:
    kind = "invalid_request_error" if status < 500 else "server_error"
    return ErrorBody(error=Error(code=code, message=message, type=kind, param=param))


def error_response(
    request: Request, status: int, code: str, message: str, param: str | None = None, **headers: str
) -> JSONResponse:
    message, param = message[:MOST_SAID], param and param[:MOST_SAID]
    body = error_body(status, code, message, param).model_dump() | vendor_error_fields(request, status, code, message)
    return JSONResponse(body, status, headers={name.replace("_", "-"): text for name, text in headers.items()})


def vendor_error_fields(request: Request, status: int, code: str, message: str) -> dict[str, Any]:
    """Return what the clients of another API read an error by, on the paths that are that API's."""
    for dialect in request.app.state.dialects:
        if dialect.error_fields and any(path in route_path(request.scope) for path in dialect.paths):
            return dict(dialect.error_fields(status, code, message))
    return {}


def documented(*kinds: type[KinoraError]) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that can answer with these errors."""
    by_status: dict[int, list[type[KinoraError]]] = defaultdict(list)
    for kind in kinds:
        by_status[kind.status].append(kind)
    return {
        status: {
            "description": ", ".join(f"`{_code(kind)}`" for kind in found),
            "content": {
                "application/json": ERROR_SCHEMA | {"examples": {_code(kind): _example(kind, status) for kind in found}}
            },
        }
        for status, found in by_status.items()
    }


def everywhere() -> dict[int | str, dict[str, Any]]:
    """The `responses` that any route can give, whatever it does: they come from the layers around it."""
    ours = documented(
        errors.HeaderInvalid,
        errors.Unauthorized,
        errors.OriginForbidden,
        errors.UntrustedHost,
        errors.RateLimited,
        errors.UploadTooLarge,
        errors.LedgerUnavailable,
    )
    ours[400]["description"] += ", `bad_request`"  # what can be read by nobody
    codes = {500: errors.InternalError.code} | CODES
    others: dict[int | str, dict[str, Any]] = {
        status: {"description": f"`{codes[status]}`", "content": {"application/json": ERROR_SCHEMA}}
        for status in (405, 408, 415, 431, 500)
    }
    others[500]["model"] = ErrorBody  # which has FastAPI put it among the schemas that the others refer to
    return others | ours


def _code(kind: type[KinoraError]) -> str:
    return "task_canceled" if kind is errors.TaskGone else kind.code  # one of the reasons that take its place


def _example(kind: type[KinoraError], status: int) -> dict[str, Any]:
    param = "file" if issubclass(kind, errors.InvalidRequest) else None
    return {"value": error_body(status, _code(kind), kind.example, param).model_dump()}


def install(app: FastAPI) -> None:
    app.add_exception_handler(KinoraError, _kinora)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)


async def _kinora(request: Request, error: Exception) -> JSONResponse:
    return kinora_response(request, cast(KinoraError, error))


def refusal(request: Request, error: KinoraError | HTTPException) -> ASGIApp:
    """The answer to a request whose body nobody wants: the connection ends with it."""
    response = kinora_response(request, error) if isinstance(error, KinoraError) else http_response(request, error)
    return closing(request, response)


def closing(request: Request, response: ASGIApp) -> ASGIApp:
    """Return `response`, after which the connection ends if there is a body that nobody has read."""
    return ClosingResponse(response) if has_body(request) else response


def has_body(request: Request) -> bool:
    return "transfer-encoding" in request.headers or request.headers.get("content-length", "0") != "0"


class ClosingResponse:
    """A whole answer, after which the connection is closed. What still comes is thrown away for a moment first: to
    close at once would be a reset, with which proxies and clients lose the answer."""

    def __init__(self, response: ASGIApp) -> None:
        self.response = response

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_and_close(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Connection"] = "close"
                await send(message)
                return
            await send({**message, "more_body": True})
            await discard(receive)
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        await self.response(scope, receive, send_and_close)


async def discard(receive: Receive) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(LINGER_SECONDS):
            while (message := await receive()).get("more_body"):
                await DISCARDED.pay("", message)


def kinora_response(request: Request, error: KinoraError) -> JSONResponse:
    headers = {}
    if error.retry is Retry.LATER:
        headers = {"Retry_After": str(error.retry_after or RETRY_AFTER_SECONDS)}
    elif isinstance(error, errors.Unauthorized):
        headers = {"WWW_Authenticate": "Bearer"}
    elif isinstance(error, errors.RangeNotSatisfiable):
        headers = {"Content_Range": f"bytes */{error.size}"}
    if isinstance(error, errors.Unavailable):
        log.warning("request_refused", code=error.code, reason=error.message)
    return error_response(request, error.status, *code_and_message(error), error.param, **headers)


def code_and_message(error: KinoraError) -> tuple[str, str]:
    """The code and the message for a caller. Where a store stands and how it failed is for the log."""
    code = error.reason if isinstance(error, errors.TaskGone) else error.code
    return code, error.example if isinstance(error, errors.Unavailable) else error.message[:MOST_SAID]


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    found = cast(RequestValidationError, error).errors()
    return kinora_response(request, invalid_parameter(found, skip=1))  # where it stands: body, query, header


async def _http(request: Request, error: Exception) -> JSONResponse:
    return http_response(request, cast(HTTPException, error))


def http_response(request: Request, error: HTTPException) -> JSONResponse:
    response = error_response(request, error.status_code, CODES.get(error.status_code, "bad_request"), error.detail)
    response.headers.update(error.headers or {})
    return response


def unexpected(request: Request) -> JSONResponse:
    """The log has the trace; the caller learns nothing of our insides."""
    message = "an unexpected error; the server's log has it under this answer's X-Request-ID"
    return error_response(request, 500, errors.InternalError.code, message)
