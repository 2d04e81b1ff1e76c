"""Settings: the four stores."""

from pathlib import Path

from pydantic import BaseModel, Field, ValidationInfo, field_validator

from core.config.redis_url import check_redis_url
from core.config.store_urls import check_database_url, check_storage_url

CHECKS = {"database_url": check_database_url, "storage_url": check_storage_url, "redis_url": check_redis_url}


class StoreSettings(BaseModel):
    data_dir: Path = Path("data")
    database_url: str = ""
    storage_url: str = ""
    result_redirect: bool = False
    redis_url: str = ""
    redis_host: str = "127.0.0.1"
    redis_port: int = Field(default=6379, ge=1, le=65535)
    redis_db: int = Field(default=0, ge=0)
    redis_username: str = ""
    redis_password: str = ""
    redis_password_file: Path | None = None

    @field_validator("result_redirect")
    @classmethod
    def _has_somewhere_to_lead(cls, result_redirect: bool, given: ValidationInfo) -> bool:
        if result_redirect and given.data.get("storage_url", "").partition("://")[0] in ("", "file"):
            raise ValueError("needs an object store: set STORAGE_URL")
        return result_redirect

    @field_validator("database_url", "storage_url", "redis_url")
    @classmethod
    def _names_a_store(cls, url: str, given: ValidationInfo) -> str:
        if url and given.field_name:
            CHECKS[given.field_name](url)
        return url

    @property
    def resolved_database_url(self) -> str:
        """`DATABASE_URL`, or a SQLite file under `DATA_DIR`; PostgreSQL through psycopg 3."""
        url = self.database_url or f"sqlite:///{self.data_dir.resolve() / 'kinora.db'}"
        return url.replace("postgres://", "postgresql://", 1).replace("postgresql://", "postgresql+psycopg://", 1)

    @property
    def resolved_storage_url(self) -> str:
        """`STORAGE_URL`, or a folder under `DATA_DIR`."""
        return self.storage_url or f"file://{self.data_dir.resolve() / 'storage'}"

    @property
    def local_places(self) -> list[Path]:
        """`DATA_DIR`, and what of the stores lies elsewhere on this machine."""
        named = [
            self.resolved_database_url.partition("sqlite:///")[2],
            self.resolved_storage_url.partition("file://")[2],
        ]
        folder = self.data_dir.resolve()
        elsewhere = [Path(name).resolve() for name in named if name]
        return [folder, *(place for place in elsewhere if not place.is_relative_to(folder))]
