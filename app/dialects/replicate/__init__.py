"""Replicate's API, for models that make a video out of a picture."""

from typing import Any

from app.dialects.base import HttpDialect
from app.dialects.replicate import files, models, predictions


def error_fields(status: int, code: str, message: str) -> dict[str, Any]:
    return {"title": code, "detail": message, "status": status}


DIALECT = HttpDialect(
    routers=(predictions.router, models.router, files.router),
    uploads="/v1/files|/v1/predictions|/v1/models/[^/]+/[^/]+/predictions",
    pictures=predictions.PICTURES,
    paths=tuple(
        f"/v1/{name}"
        for name in (
            "predictions",
            "models/",
            "files",
            "webhooks/",
            # What is not here, so that a client can say so.
            "account",
            "collections",
            "deployments",
            "hardware",
            "trainings",
        )
    ),
    error_fields=error_fields,
)
