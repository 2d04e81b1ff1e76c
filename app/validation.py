"""What pydantic refuses, told to a caller in Kinora's words: none of pydantic's own reaches an answer."""

from collections.abc import Mapping, Sequence
from typing import Any

from core.errors import InvalidParameter
from core.ids import ID_PATTERN
from core.shown import shown

WHOLE, NUMBER, TEXT = "must be a whole number", "must be a number", "must be text"
# By the types of pydantic's errors; what stands in braces is their context.
RULES = {
    "missing": "is missing",
    "extra_forbidden": "is not a known field",
    "unexpected_keyword_argument": "is not a known field",
    "int_type": WHOLE,
    "int_parsing": WHOLE,
    "int_parsing_size": WHOLE + " of fewer digits",
    "int_from_float": WHOLE,
    "float_type": NUMBER,
    "float_parsing": NUMBER,
    "finite_number": NUMBER,
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": TEXT,
    "string_unicode": TEXT + " in UTF-8",
    "string_too_short": "must have {min_length} or more characters",
    "string_too_long": "must have at most {max_length} characters",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "enum": "must be one of {expected}",
    "literal_error": "must be one of {expected}",
    "list_type": "must be a list",
    "too_short": "must have {min_length} or more values",
    "too_long": "must have at most {max_length} values",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "value_error": "must be a file",  # which is what FastAPI says of text in the place of one
}
# By those of our own validators.
OWN_RULES = {"too_many_bytes": "must have at most {max_bytes} bytes in UTF-8"}
PATTERNS = {
    ID_PATTERN: "must be an id, 32 of the characters 0-9 and a-f",
    r"^\d{1,5}x\d{1,5}$": "must be WIDTHxHEIGHT, as 1280x720",
    "^(older|newer)-[0-9a-f]{32}$": "must be taken from the URL of a page before",
}
LENGTHS = ("string_too_short", "string_too_long", "too_short", "too_long")
WITHOUT_VALUE = ("missing", "extra_forbidden", "unexpected_keyword_argument", "value_error")


def invalid_parameter(errors: Sequence[Mapping[str, Any]], *, skip: int = 0) -> InvalidParameter:
    """Return the first of pydantic's errors as ours. `skip`: how much of its place is no part of the field's name."""
    first = errors[0]
    kind, given = first["type"], first["input"]
    param = ".".join(part for part in first["loc"][skip:] if isinstance(part, str))
    if not param:
        return InvalidParameter("the body must be a JSON object")
    got = shown(len(given) if kind in LENGTHS else first.get("ctx", {}).get("bytes", given))
    message = f"{param} {rule_of(kind, first.get('ctx', {}))}" + ("" if kind in WITHOUT_VALUE else f"; got {got}")
    return InvalidParameter(message, param=param)


def rule_of(kind: str, context: Mapping[str, Any]) -> str:
    """What must be so, as "must be at least 1"."""
    if kind == "string_pattern_mismatch":
        return PATTERNS.get(context["pattern"], "must be written in another way")
    words = {name: shown(value) if isinstance(value, float) else value for name, value in context.items()}
    words["expected"] = str(context.get("expected")).replace("'", "").replace(" or ", ", ")
    return (RULES | OWN_RULES).get(kind, "cannot be read").format(**words)
