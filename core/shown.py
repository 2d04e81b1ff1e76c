"""A value as an error message shows it."""

import json
import re
from typing import Any

MOST_SHOWN = 80  # characters


def shown(value: Any) -> str:
    """Return `value` with all of its digits, as JSON but for plain words, numbers and objects, and cut where it is
    long."""
    if isinstance(value, str) and re.fullmatch("[!-~]+", value):
        text = value
    elif isinstance(value, dict) and value:
        text = "an object"
    else:
        text = json.dumps(value, default=lambda other: f"<{type(other).__name__}>")
        text = text.removesuffix(".0") if isinstance(value, float) else text
    return text if len(text) <= MOST_SHOWN else text[:MOST_SHOWN] + "…"
