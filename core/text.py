"""Texts that not every store can hold: PostgreSQL takes no NUL, and half of a pair of surrogates, which JSON's escapes
and Python can have, is no character, so that UTF-8 has no bytes for it."""

import json

from core.errors import InvalidParameter


def check_text(param: str, text: str) -> None:
    """Raises InvalidParameter for a NUL, and for what is no UTF-8."""
    if rule := broken_rule(text):
        raise InvalidParameter(f"{param} {rule}", param=param)


def check_name(name: str) -> None:
    """As `check_text`, for the name of a field: the error has it with escapes."""
    if rule := broken_rule(name):
        escaped = json.dumps(name)[1:-1]
        raise InvalidParameter(f"the name of the field {escaped} {rule}", param=escaped)


def broken_rule(text: str) -> str | None:
    """Return what of the text is not as it must be; None if all is."""
    if "\0" in text:
        return "must hold no NUL"
    return None if text.isascii() or is_utf8(text) else "must be text in UTF-8"


def is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
