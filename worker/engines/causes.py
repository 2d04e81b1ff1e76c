"""What an exception came of, and what it says in one line."""

from collections.abc import Iterator


def causes(exc: BaseException | None) -> Iterator[BaseException]:
    """Yield `exc`, then what it was raised from or in the midst of, and so on."""
    while exc is not None:
        yield exc
        exc = exc.__cause__ or exc.__context__


def first_line(exc: BaseException) -> str:
    """Return the first line of its message that is not blank, or its type's name."""
    return next((line.strip() for line in str(exc).splitlines() if line.strip()), type(exc).__name__)
