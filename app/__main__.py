"""python -m app: serve the API server."""

import contextlib
import os
import signal
import sys

import uvicorn

from app.main import create_app
from app.middleware.auth import lets_everyone_in
from app.middleware.http_metrics import MULTIPROCESS_FOLDER
from app.middleware.slow_clients import KEEP_ALIVE_SECONDS, BoundedHttp
from core.config.settings import Settings, read_settings
from core.errors import InvalidParameter, LedgerUnavailable, Unusable
from core.ledger.moves import Ledger
from core.process.no_proxy import reach_loopback_directly
from core.process.private_files import keep_files_private
from core.process.scratch import scratch_folder
from core.process.unusable import ends_if_unusable
from core.requests.resolve import check_defaults
from core.storage import Storage

MAX_CONNECTIONS = 1000  # of one process; whoever comes then and finds no idle one in the way is answered 503


@ends_if_unusable()
def main() -> None:
    keep_files_private()
    settings = read_settings()
    reach_loopback_directly()
    try:
        check_defaults(settings)
        app = create_app(settings)  # of several processes each makes its own: there it would be a traceback
    except InvalidParameter as error:
        raise Unusable(f"the settings do not fit: {error.message}") from error
    check_ledger(settings)
    Storage(settings.resolved_storage_url)
    # uvicorn stops in order and then raises the signal again, for whoever handled it before.
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(0))
    with scratch_folder("metrics") as folder:
        if settings.api_workers > 1:
            os.environ[MULTIPROCESS_FOLDER] = str(folder)
        uvicorn.run(
            "app.main:create_app" if settings.api_workers > 1 else app,
            factory=settings.api_workers > 1,
            host=settings.api_host,
            port=settings.api_port,
            workers=settings.api_workers,
            http=BoundedHttp,
            ws="none",  # it would pass by every layer
            limit_concurrency=MAX_CONNECTIONS,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            server_header=False,
            access_log=False,
            log_config=None,  # core/process/logs.py speaks for all
        )
    if settings.api_workers > 1:  # they end together: in order, or because one of them could not use the ledger
        refuse_unusable_ledger(settings)


def refuse_unusable_ledger(settings: Settings) -> None:
    """Raises Unusable."""
    with contextlib.closing(Ledger(settings.resolved_database_url)) as ledger, contextlib.suppress(LedgerUnavailable):
        ledger.migrate()


def check_ledger(settings: Settings) -> None:
    """Bring the ledger's tables up to date, and end this process where others could call and nobody has a key. Raises
    Unusable."""
    ledger = Ledger(settings.resolved_database_url)
    try:
        ledger.migrate()
        is_closed = not lets_everyone_in(settings) and not ledger.keys.any()
    except LedgerUnavailable:
        # Then nobody can be let in either: requests are answered 503 until it is back, and 401 without a key.
        return
    finally:
        ledger.close()
    if is_closed:
        sys.exit(
            "kinora: there is no API key yet, and without one nobody could use the service: make one with "
            "`scripts/keys create --name NAME` (in a container, `python -m app.keys create --name NAME`), or say "
            "AUTH=off, which lets in everyone who reaches it"
        )


if __name__ == "__main__":
    main()
