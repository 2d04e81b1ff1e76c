"""Ids of tasks, steps, keys and deliveries: UUIDv7, which sort by when they were made."""

import re

import uuid_utils

ID_PATTERN = "^[0-9a-f]{32}$"


def is_id(text: str) -> bool:
    """Return whether it could be an id: what is none cannot be in the ledger, and a NUL would upset PostgreSQL."""
    return re.fullmatch(ID_PATTERN, text) is not None


def new_id() -> str:
    """Return 32 lowercase hex digits that sort by the time they were made (UUIDv7, RFC 9562)."""
    return uuid_utils.uuid7().hex


def id_seconds(task_id: str) -> float:
    """Return when the id was made, in seconds since the epoch: UUIDv7 begins with milliseconds."""
    return int(task_id[:12], 16) / 1000
