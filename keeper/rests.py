"""Which rests are over, by this process's own clock: that of the ledger's database may jump an hour either way."""

from time import monotonic

from core.task import Rest

# How often what is left of a rest is written down, so that a keeper that is started anew goes on from there.
NOTE_SECONDS = 10.0
# Of what the database's clock says has passed since: more is a keeper that was away, or a clock that jumped, and nobody
# knows which. A rest may become longer by that, never shorter.
MOST_BELIEVED_SECONDS = NOTE_SECONDS + 5.0


class Rests:
    def __init__(self) -> None:
        self._left: dict[tuple[str, int], float] = {}
        self._looked_at = monotonic()

    def look(self, resting: list[Rest]) -> tuple[list[Rest], list[tuple[Rest, float]]]:
        """Return those of `resting` whose time is over, and those of which the seconds that are left are to be written
        down."""
        looked_at = monotonic()
        passed, self._looked_at = looked_at - self._looked_at, looked_at
        before, self._left = self._left, {}
        over, to_note = [], []
        for rest in resting:
            its = (rest.step_id, rest.attempt)
            left = before[its] - passed if its in before else first_left(rest)
            self._left[its] = left
            if left <= 0:
                over.append(rest)
            elif rest.seconds - left >= NOTE_SECONDS:
                to_note.append((rest, left))
        return over, to_note


def first_left(rest: Rest) -> float:
    """Return what is left of a rest that this process has not seen before."""
    return rest.seconds - (rest.since if 0 <= rest.since <= MOST_BELIEVED_SECONDS else 0.0)
