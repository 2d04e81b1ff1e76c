"""What a kind of step is that is done by somebody else's server: three methods, which different attempts may call.

What `submit` returns is recorded before anything else happens, so that another attempt polls what this one has begun,
and nothing is asked for, or paid, twice.
"""

from typing import Any, ClassVar

from worker.steps.base import Made, StepContext


class NetStep:
    """Each method raises Stopped, Unavailable for what may go well later, and StepFailed for what will not."""

    provider: ClassVar[str]
    """Whose server it is; at most `at_once` of its steps are done at a time by one worker."""
    at_once: ClassVar[int] = 20
    poll_seconds: ClassVar[float] = 5.0
    time_limit: ClassVar[float] = 3600.0
    """Seconds; then the attempt is lost, and the process goes on."""

    def __init__(self, context: StepContext) -> None:
        self.context = context
        self.claim, self.attempt, self.storage = context.claim, context.attempt, context.storage

    def submit(self) -> dict[str, Any]:
        """Ask for the work, and return the handle by which it is asked about. NotTaken (for now) and StepFailed (for
        good) say that it surely is not done, and not paid; whatever may have been heard is Unavailable."""
        raise NotImplementedError

    def poll(self, handle: dict[str, Any]) -> float | None:
        """Return how far the work is, from 0 to 1; None: it is done."""
        raise NotImplementedError

    def fetch(self, handle: dict[str, Any]) -> Made:
        """Get what was made, store it, and return it."""
        raise NotImplementedError

    def cost(self, handle: dict[str, Any]) -> dict[str, Any] | None:
        """Return what it cost, as `amount` and `currency`; None if nothing."""
        return None
