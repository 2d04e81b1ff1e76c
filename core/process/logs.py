"""Logs: one line an event, as JSON for machines or coloured for a terminal, for our code and for libraries alike.

What a caller sent stands in none of them. A crash is told by its place in the code and its type: variables and messages
may quote prompts, parameters and URLs, and so may what a library says in its own words.
"""

import errno
import logging
import ssl
import sys
import threading
import traceback
import warnings
from collections.abc import MutableMapping
from types import TracebackType
from typing import Any

import structlog

# Libraries that never quote a caller; of what the others say, only the place at which they said it is told.
TRUSTED = ("alembic", "rq", "sqlalchemy.pool", "uvicorn")

MOST_TOLD = 20  # of the errors that led to one, and of those in a group

log = structlog.get_logger(__name__)


def set_up_logs(log_format: str) -> None:
    """Called once by each process's main; `log_format` is "json" or "console"."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.ExceptionRenderer(lambda raised: without_values(raised[1])),
    ]
    last: Any = structlog.processors.JSONRenderer()
    if log_format == "console":
        last = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[_without_quotes, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, last],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    for chatty in ("rq.worker", "rq.queue", "rq.job", "alembic", "httpx2", "mcp", "uvicorn.access"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    logging.raiseExceptions = False  # of a line that cannot be formatted, Python would print the values
    _log_what_nobody_catches()


def without_values(error: BaseException | None, told: set[int] | None = None) -> str:
    """Return the traceback of `error`, and of those that led to it, with neither variables nor messages; what a group
    holds follows it. Each is told once."""
    told = set() if told is None else told
    chain: list[BaseException] = []
    while error is not None and id(error) not in told and len(chain) < MOST_TOLD:
        told.add(id(error))
        chain.append(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    parts = []
    for each in reversed(chain):
        places = "".join(traceback.format_tb(each.__traceback__))
        parts.append(f"Traceback (most recent call last):\n{places}{_name(each)}")
        if isinstance(each, BaseExceptionGroup):
            parts += [without_values(held, told) for held in each.exceptions[:MOST_TOLD]]
    return "\n\n".join(filter(None, parts))


def _name(error: BaseException) -> str:
    name = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError):  # whose numbers are its own
        name = f"{name} {errno.errorcode.get(error.errno or 0, '')}".strip()
    return name


def _without_quotes(_logger: Any, _level: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    record: logging.LogRecord = event["_record"]
    if record.name.startswith(TRUSTED):
        event["event"] = event["event"].strip()
    else:
        event.update(event="library_spoke", where=f"{record.pathname}:{record.lineno}")
    return event


def _log_what_nobody_catches() -> None:
    """Python itself would print it, with its message. Whoever has set a hook of his own keeps it."""

    def crashed(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        log.critical("process_crashed", exc_info=(kind, error, trace))

    def thread_crashed(args: threading.ExceptHookArgs) -> None:
        if args.exc_type is not SystemExit and args.exc_value:
            name = args.thread.name if args.thread else None
            log.error("thread_crashed", thread=name, exc_info=args.exc_value)

    def unraisable(args: Any) -> None:
        log.error("exception_ignored", exc_info=args.exc_value)

    def warned(message: Any, category: type[Warning], filename: str, lineno: int, *_: Any, **__: Any) -> None:
        log.warning("python_warning", category=category.__name__, where=f"{filename}:{lineno}")

    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = crashed
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = thread_crashed
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = unraisable
    warnings.showwarning = warned
