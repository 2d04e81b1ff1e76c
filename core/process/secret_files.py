"""NAME_FILE for every setting NAME: the path of a file that holds the value, as Docker and Kubernetes give secrets."""

from collections.abc import Collection, Mapping
from pathlib import Path

from pydantic_settings import SettingsError


def values_from_files(settings: Collection[str], variables: Mapping[str, str | None]) -> dict[str, str]:
    """What the files hold. Raises SettingsError if one cannot be read, or its value is set as well."""
    values = {}
    for name in settings:
        path = variables.get(f"{name}_file")
        if not path:
            continue
        if variables.get(name):
            raise SettingsError(f"set {name.upper()} or {name.upper()}_FILE, not both")
        if f"{name}_file" not in settings:  # else a setting of its own: whoever uses it reads it
            values[name] = read_secret(name, path)
    return values


def read_secret(name: str, path: str) -> str:
    try:
        return Path(path).read_text().removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{name.upper()}_FILE cannot be read: {error}") from error
