"""How long a step rests before it is tried again."""

# Seconds after its first, second, … lost attempt.
RETRY_PAUSES = (1.0, 5.0, 30.0)


def pause_after(lost_attempts: int) -> float:
    """Return the seconds after so many lost attempts, at least one."""
    return RETRY_PAUSES[min(lost_attempts, len(RETRY_PAUSES)) - 1]
