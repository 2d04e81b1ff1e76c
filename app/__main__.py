"""python -m app: serve the HTTP front."""

import os
import signal
import sys

import uvicorn

from app.http_metrics import MULTIPROCESS_FOLDER
from core.config import Settings
from core.errors import InvalidParameter
from core.scratch import scratch_folder
from core.spec import check_defaults


def main() -> None:
    settings = Settings()
    try:
        check_defaults(settings)
    except InvalidParameter as error:
        sys.exit(f"kinora: the settings do not fit: {error.message}")
    # uvicorn stops in order and then raises the signal again, for whoever handled it before.
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(0))
    with scratch_folder("metrics") as folder:
        if settings.api_workers > 1:
            os.environ[MULTIPROCESS_FOLDER] = str(folder)
        uvicorn.run(
            "app.main:create_app",
            factory=True,
            host=settings.api_host,
            port=settings.api_port,
            workers=settings.api_workers,
            access_log=False,
            log_config=None,  # core/logs.py speaks for all
        )


if __name__ == "__main__":
    main()
