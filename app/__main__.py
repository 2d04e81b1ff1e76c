"""python -m app: serve the HTTP front."""

import os
import tempfile

import uvicorn

from app.http_metrics import MULTIPROCESS_FOLDER
from core.config import Settings


def main() -> None:
    settings = Settings()
    with tempfile.TemporaryDirectory(prefix="kinora-metrics-") as folder:
        if settings.api_workers > 1:
            os.environ[MULTIPROCESS_FOLDER] = folder
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
