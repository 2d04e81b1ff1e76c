"""Settings: how promises are kept."""

from typing import Literal

from pydantic import BaseModel, Field, PositiveFloat, PositiveInt


class PromiseSettings(BaseModel):
    lease_seconds: PositiveFloat = 10.0
    max_attempts: PositiveInt = 3
    step_time_limit: PositiveFloat = 3600.0
    shutdown_grace: float = Field(default=60.0, ge=0)
    worker_max_steps: int = Field(default=0, ge=0)
    worker_max_memory_mb: int = Field(default=0, ge=0)
    result_ttl: PositiveFloat = 7 * 24 * 3600.0
    task_ttl: float = Field(default=30 * 24 * 3600.0, ge=24 * 3600.0)
    log_format: Literal["json", "console"] = "json"
