"""Every name an operator can set, with its default: the groups beside this file, joined. The list with explanations is
.env.example."""

import sys
from typing import cast

from pydantic import ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from core.config.engines import EngineSettings
from core.config.http import HttpSettings
from core.config.limits import LimitSettings
from core.config.promises import PromiseSettings
from core.config.stores import StoreSettings
from core.errors import Unusable
from core.process.secret_files import values_from_files
from core.process.unusable import EXIT_UNUSABLE, say


class Settings(HttpSettings, LimitSettings, StoreSettings, EngineSettings, PromiseSettings, BaseSettings):
    """Read from the environment, then from `.env`; NAME_FILE names a file with the value. Empty counts as not set."""

    model_config = SettingsConfigDict(env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True)

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


def read_settings() -> Settings:
    """Return the settings: what each process does first. Ends it with 78, and a line for each setting that does not
    fit."""
    try:
        return Settings()
    except ValidationError as error:
        wrong = [
            f"{'.'.join(map(str, found['loc'])).upper()}: {found['msg'].removeprefix('Value error, ')}"
            for found in error.errors()
        ]
    except SettingsError as error:
        wrong = [str(error)]
    for line in wrong:
        say(Unusable(f"the settings do not fit: {line}"))
    sys.exit(EXIT_UNUSABLE)
