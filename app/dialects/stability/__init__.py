"""Stability AI's API v2beta, image-to-video: the one whose model Stable Video Diffusion was."""

from typing import Any

from structlog.contextvars import get_contextvars

from app.dialects.base import HttpDialect
from app.dialects.stability import image_to_video


def error_fields(status: int, code: str, message: str) -> dict[str, Any]:
    return {"id": get_contextvars().get("request_id"), "name": code, "errors": [message]}


DIALECT = HttpDialect(
    routers=(image_to_video.router,),
    uploads="/v2beta/image-to-video",
    paths=("/v2beta/",),
    error_fields=error_fields,
    headers=("finish-reason", "seed"),
)
