"""What every verb is: a generator that does what needs the engine, yields once, and then does the rest.

The runner takes it to the yield in the worker's main thread and on from there in the finalizer's, while the next step
has the engine already.
"""

from collections.abc import Generator
from typing import Any

from core.task import Artifact

Made = tuple[list[Artifact], dict[str, Any]]
"""The artifacts, and the receipt."""

Work = Generator[None, None, Made]


def made(work: Work) -> Made:
    """What comes of it, once it has yielded."""
    try:
        next(work)
    except StopIteration as end:
        result: Made = end.value
        return result
    raise AssertionError("a verb yields once")
