"""scripts/mutate: at least nineteen of twenty plausible faults turn a test red."""

from mutate.__main__ import ENOUGH, try_all
from mutate.mutations import read_mutations
from mutate.trial import Verdict


def test_nineteen_of_twenty_faults_are_noticed() -> None:
    trials = try_all(read_mutations())
    assert Verdict.NOT_RUN not in {trial.verdict for trial in trials}
    assert sum(trial.verdict == Verdict.NOTICED for trial in trials) >= ENOUGH * len(trials)
