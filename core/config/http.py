"""Settings: where the service listens, and who may call it from a browser."""

import re
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, Field, PositiveInt, field_validator

# With these the pages, which have the path without escapes, would lead elsewhere.
NOT_IN_PATH = frozenset("?#%\"'<>\\")


class HttpSettings(BaseModel):
    api_host: str = "127.0.0.1"
    api_port: int = Field(default=8000, ge=1, le=65535)
    api_workers: PositiveInt = 1
    public_url: str = ""
    allowed_hosts: str = "host.docker.internal"
    worker_metrics_host: str = "127.0.0.1"
    worker_metrics_port: int = Field(default=9101, ge=1, le=65000)
    cors_origins: str = ""

    @field_validator("public_url")
    @classmethod
    def _is_a_web_address(cls, public_url: str) -> str:
        if public_url and not re.fullmatch(r"https?://[^/?#\s]+(/[^?#\s]*)?", public_url):
            raise ValueError("must be like https://video.example.com, with or without a path")
        parts = urlsplit(public_url)
        try:
            path = unquote(parts.path, errors="strict")
            parts.port  # noqa: B018 - raises for one that is none
        except ValueError as error:
            raise ValueError("has a port that is none, or a path that is no UTF-8") from error
        if not re.fullmatch(r"[\w.\[\]:-]*", parts.netloc):
            raise ValueError("must name a host, with or without a port, and nothing else before the path")
        if "%2f" in parts.path.lower() or not path.isprintable() or not NOT_IN_PATH.isdisjoint(path):
            raise ValueError(
                f"its path may hold no / as %2F and none of {' '.join(sorted(NOT_IN_PATH))}, escaped or not"
            )
        return public_url

    @field_validator("allowed_hosts")
    @classmethod
    def _are_names(cls, allowed_hosts: str) -> str:
        for name in comma_separated(allowed_hosts):
            if not re.fullmatch(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?\.?", name, re.IGNORECASE):
                raise ValueError(f"must be like kinora.example.com, separated by commas, without a port; got {name}")
        return allowed_hosts

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, cors_origins: str) -> str:
        for origin in comma_separated(cors_origins):
            if origin != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/?#\s]+/?", origin):
                raise ValueError(f"must be like https://app.example.com, separated by commas, or *; got {origin}")
        return cors_origins


def comma_separated(text: str) -> list[str]:
    """Return what commas part in `text`, without spaces around and without empty ones."""
    return [entry.strip() for entry in text.split(",") if entry.strip()]
