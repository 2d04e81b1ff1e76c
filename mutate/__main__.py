"""Plausible faults, one at a time, into a copy of the code; and the question whether a test near it turns red.

    python -m mutate [NAME ...]

Prints each fault and what became of it, then how many of each kind were noticed. Where all are tried it writes
bench/results/mutate.json. Ends with 1 where fewer than 19 in 20 are noticed, and where one no longer fits the code.
"""

import argparse
import sys
import time
from collections import Counter
from typing import Any

from harness.report import machine, print_table, write
from mutate.mutations import DoesNotApply, Mutation, read_mutations
from mutate.trial import Trial, Verdict, copied_tree, run_tests, tried

ENOUGH = 19 / 20
UNCHANGED_SECONDS = 1200.0


def main() -> None:
    parser = argparse.ArgumentParser(description="Puts plausible faults in and asks whether a test turns red.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="only those")
    names = parser.parse_args().names
    mutations = read_mutations()
    if unknown := set(names) - {mutation.name for mutation in mutations}:
        sys.exit(f"there is no mutation {', '.join(sorted(unknown))}")
    chosen = [mutation for mutation in mutations if mutation.name in names or not names]
    begun = time.perf_counter()
    trials = try_all(chosen)
    seconds = time.perf_counter() - begun
    print_table(by_kind(chosen, trials))
    noticed = sum(trial.verdict == Verdict.NOTICED for trial in trials)
    print(f"{noticed} of {len(trials)} noticed, in {seconds / 60:.1f} minutes")
    if not names:
        write("mutate", {"machine": machine(), "seconds": round(seconds), **results(chosen, trials)})
    if noticed < ENOUGH * len(trials) or any(trial.verdict == Verdict.NOT_RUN for trial in trials):
        sys.exit(1)


def try_all(mutations: list[Mutation]) -> list[Trial]:
    """What became of each. Leaves with 1 where one does not apply, or the tests are red without any."""
    trials = []
    try:
        for mutation in mutations:
            mutation.applied()
        with copied_tree() as tree:
            tests = list(dict.fromkeys(test for mutation in mutations for test in mutation.tests))
            unchanged = run_tests(tests, tree, UNCHANGED_SECONDS)
            if unchanged.verdict != Verdict.NOT_NOTICED:
                sys.exit(f"the tests are red without a mutation: {unchanged.said}")
            print(f"{len(tests)} near tests are green without a mutation ({unchanged.seconds:.0f} s)", flush=True)
            for mutation in mutations:
                trial = tried(mutation, tree)
                print(f"{mutation.name}: {trial.verdict} ({trial.seconds:.1f} s) {trial.said}", flush=True)
                trials.append(trial)
    except DoesNotApply as error:
        sys.exit(f"does not apply: {error}")
    return trials


def by_kind(mutations: list[Mutation], trials: list[Trial]) -> list[dict[str, object]]:
    all_of = Counter(mutation.kind for mutation in mutations)
    noticed = Counter(
        mutation.kind for mutation, trial in zip(mutations, trials, strict=True) if trial.verdict == Verdict.NOTICED
    )
    return [{"kind": kind, "mutations": count, "noticed": noticed[kind]} for kind, count in sorted(all_of.items())]


def results(mutations: list[Mutation], trials: list[Trial]) -> dict[str, Any]:
    each = [
        {"name": mutation.name, "kind": mutation.kind, "file": mutation.file}
        | {"verdict": trial.verdict, "seconds": round(trial.seconds, 1), "said": trial.said}
        for mutation, trial in zip(mutations, trials, strict=True)
    ]
    return {"by_kind": by_kind(mutations, trials), "mutations": each}


if __name__ == "__main__":
    main()
