"""Settings: who may call, how much, and what is accepted."""

from typing import Literal

from pydantic import BaseModel, Field, PositiveInt, field_validator

from core.outbound import allowed_places


class LimitSettings(BaseModel):
    auth: Literal["auto", "keys", "off"] = "auto"
    rate_limit: str = "6000/minute"
    max_tasks_per_hour: int = Field(default=1000, ge=0)
    max_tasks_per_key: int = Field(default=10_000, ge=0)
    max_waiting_per_key: int = Field(default=100, ge=0)
    max_stored_mb_per_key: int = Field(default=20_000, ge=0)
    link_ttl: PositiveInt = 24 * 3600

    max_upload_mb: PositiveInt = 20
    max_image_megapixels: int = Field(default=50, ge=1, le=80)
    max_waiting: PositiveInt = 2000
    max_waiting_per_queue: PositiveInt = 1000
    min_free_disk_mb: int = Field(default=500, ge=0)
    fetch_allow: str = ""

    @field_validator("fetch_allow")
    @classmethod
    def _names_places(cls, fetch_allow: str) -> str:
        allowed_places(fetch_allow)  # raises if an entry would allow nothing
        return fetch_allow
