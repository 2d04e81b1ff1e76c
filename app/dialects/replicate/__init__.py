"""Replicate's API, for models that make a video out of a picture."""

from typing import Any

from app.dialects.base import HttpDialect
from app.dialects.replicate import files, predictions


def error_fields(status: int, code: str, message: str) -> dict[str, Any]:
    return {"title": code, "detail": message, "status": status}


DIALECT = HttpDialect(
    routers=(predictions.router, files.router),
    uploads="/v1/files|/v1/predictions|/v1/models/[^/]+/[^/]+/predictions",
    paths=("/v1/predictions", "/v1/models/", "/v1/files", "/v1/webhooks/"),
    error_fields=error_fields,
)
