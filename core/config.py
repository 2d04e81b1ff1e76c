"""Settings: every name an operator can set, with its default. The list with explanations is .env.example."""

import re
import sys
from pathlib import Path
from typing import Literal, cast

from pydantic import Field, PositiveFloat, PositiveInt, ValidationError, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from core.outbound import allowed_places
from core.process.secret_files import values_from_files

SVD_XT = "stabilityai/stable-video-diffusion-img2vid-xt"
SVD_XT_REVISION = "9e43909513c6714f1bc78bcb44d96e733cd242aa"


class Settings(BaseSettings):
    """Read from the environment, then from `.env`; NAME_FILE names a file with the value. Empty counts as not set."""

    model_config = SettingsConfigDict(env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True)

    # Where the service listens
    api_host: str = "127.0.0.1"
    api_port: int = Field(default=8000, ge=1, le=65535)
    api_workers: PositiveInt = 1
    public_url: str = ""
    worker_metrics_host: str = "127.0.0.1"
    worker_metrics_port: int = Field(default=9101, ge=1, le=65000)

    # Who may call, and how much
    auth: Literal["auto", "keys", "off"] = "auto"
    rate_limit: str = "6000/minute"
    max_tasks_per_hour: int = Field(default=0, ge=0)
    max_waiting_per_key: int = Field(default=100, ge=0)
    max_stored_mb_per_key: int = Field(default=20_000, ge=0)
    link_ttl: PositiveInt = 24 * 3600
    cors_origins: str = ""

    # The four stores
    data_dir: Path = Path("data")
    database_url: str = ""
    storage_url: str = ""
    result_redirect: bool = False
    redis_host: str = "127.0.0.1"
    redis_port: int = Field(default=6379, ge=1, le=65535)
    redis_db: int = Field(default=0, ge=0)
    redis_password: str = ""
    redis_password_file: Path | None = None

    # Engines and what a clip is when a request does not say
    engine: str = "auto"
    model_id: str = SVD_XT
    model_revision: str = Field(default=SVD_XT_REVISION, pattern=r"^[0-9a-f]{40}$")
    rife_weights: Path | None = None
    video_width: int | None = None
    video_height: int | None = None
    video_frames: int | None = None
    video_fps: int | None = None

    # What is accepted
    max_upload_mb: PositiveInt = 20
    max_image_megapixels: int = Field(default=50, ge=1, le=80)
    max_waiting: PositiveInt = 2000
    max_waiting_per_queue: PositiveInt = 1000
    min_free_disk_mb: int = Field(default=500, ge=0)
    fetch_allow: str = ""

    # How promises are kept
    lease_seconds: PositiveFloat = 10.0
    max_attempts: PositiveInt = 3
    step_time_limit: PositiveFloat = 3600.0
    shutdown_grace: float = Field(default=60.0, ge=0)
    worker_max_steps: int = Field(default=0, ge=0)
    worker_max_memory_mb: int = Field(default=0, ge=0)
    result_ttl: PositiveFloat = 7 * 24 * 3600.0

    log_format: Literal["json", "console"] = "json"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        environment, dotenv = cast(EnvSettingsSource, env_settings), cast(EnvSettingsSource, dotenv_settings)
        values = values_from_files(settings_cls.model_fields, {**dotenv.env_vars, **environment.env_vars})
        return init_settings, InitSettingsSource(settings_cls, values), environment, dotenv

    @field_validator("fetch_allow")
    @classmethod
    def _names_places(cls, fetch_allow: str) -> str:
        allowed_places(fetch_allow)  # raises if an entry would allow nothing
        return fetch_allow

    @field_validator("public_url")
    @classmethod
    def _is_a_web_address(cls, public_url: str) -> str:
        if public_url and not re.fullmatch(r"https?://[^/?#\s]+(/[^?#\s]*)?", public_url):
            raise ValueError("must be like https://video.example.com, with or without a path")
        return public_url

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, cors_origins: str) -> str:
        for origin in filter(None, map(str.strip, cors_origins.split(","))):
            if origin != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/?#\s]+/?", origin):
                raise ValueError(f"must be like https://app.example.com, separated by commas, or *; got {origin}")
        return cors_origins

    @field_validator("result_redirect")
    @classmethod
    def _has_somewhere_to_lead(cls, result_redirect: bool, given: ValidationInfo) -> bool:
        if result_redirect and given.data.get("storage_url", "").partition("://")[0] in ("", "file"):
            raise ValueError("needs an object store: set STORAGE_URL")
        return result_redirect

    @property
    def resolved_database_url(self) -> str:
        """`DATABASE_URL`, or a SQLite file under `DATA_DIR`; PostgreSQL through psycopg 3."""
        url = self.database_url or f"sqlite:///{self.data_dir.resolve() / 'kinora.db'}"
        return url.replace("postgres://", "postgresql://", 1).replace("postgresql://", "postgresql+psycopg://", 1)

    @property
    def resolved_storage_url(self) -> str:
        """`STORAGE_URL`, or a folder under `DATA_DIR`."""
        return self.storage_url or f"file://{self.data_dir.resolve() / 'storage'}"


def read_settings() -> Settings:
    """What each process does first. Ends it, with a line for each setting that does not fit."""
    try:
        return Settings()
    except ValidationError as error:
        wrong = [
            f"{'.'.join(map(str, found['loc'])).upper()}: {found['msg'].removeprefix('Value error, ')}"
            for found in error.errors()
        ]
    except SettingsError as error:
        wrong = [str(error)]
    sys.exit("\n".join(f"kinora: the settings do not fit: {line}" for line in wrong))
