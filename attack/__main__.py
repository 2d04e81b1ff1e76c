"""Attacks by one caller on the whole service as it runs: what does another caller notice, and what is left of it?

    scripts/attack [SCENARIO...] [--seconds 20] [--settle 60] [--servers] [--times]

Each attack has a service of its own, on loopback and with the limits as they come; no other can be named. Prints a
table, writes bench/results/attack.json, and ends with 1 where the other caller was refused, a process grew by more than
300 MB, crashed, or was not as before once it had settled; with `--times`, meant for an idle machine, also where the
other caller's p95 was above 100 ms for a status or above 1 s for an upload.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from attack.other_caller import STATUS, UPLOAD, refused
from attack.scenarios import SCENARIOS
from attack.trial import Size, Trial, grown, latency, service, try_out
from harness.report import machine, print_table, write


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/attack", description=__doc__)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=", ".join(SCENARIOS))
    parser.add_argument("--seconds", type=float, default=Size.seconds, help="how long each attack goes on")
    parser.add_argument("--settle", type=float, default=Size.settle, help="after which all must be as before")
    parser.add_argument("--servers", action="store_true", help="PostgreSQL and S3 instead of SQLite and a folder")
    parser.add_argument("--times", action="store_true", help="the bounds of time count too: for an idle machine")
    given = parser.parse_args()
    unknown = set(given.scenarios) - set(SCENARIOS)
    if unknown:
        parser.error(f"no scenario is called {', '.join(sorted(unknown))}: there are {', '.join(SCENARIOS)}")
    size = Size(given.seconds, given.settle)
    trials, broken = make_all(given.scenarios or list(SCENARIOS), size, given.servers)
    if given.times:
        broken += [line for trial in trials for line in trial.late]
    if trials:
        print_table([row(trial) for trial in trials])
    told = {"command": f"scripts/attack {' '.join(sys.argv[1:])}".rstrip(), "broken": broken}
    figures = told | {
        "machine": machine("fastapi", "uvicorn", "sqlalchemy"),
        "trials": [each.figures() for each in trials],
    }
    print(f"\nwritten to {write('attack-servers' if given.servers else 'attack', figures)}")
    print(*broken, sep="\n", file=sys.stderr)
    sys.exit(bool(broken))


def make_all(scenarios: list[str], size: Size, on_servers: bool) -> tuple[list[Trial], list[str]]:
    """Return what came of each, and which bounds do not hold."""
    trials: list[Trial] = []
    broken: list[str] = []
    for scenario in scenarios:
        print(f"{scenario} …", file=sys.stderr)
        try:
            with (
                tempfile.TemporaryDirectory(prefix="kinora-attack-") as folder,
                service(Path(folder), on_servers) as stack,
            ):
                trials.append(try_out(stack, scenario, size))
                broken += trials[-1].broken
        except (AssertionError, TimeoutError) as error:
            broken.append(f"{scenario}: {error}")
    return trials, broken


def row(trial: Trial) -> dict[str, Any]:
    """Times in milliseconds, memory in MB."""
    times = {
        f"{what} {when}": latency(trial.calls[when], what)["p95"]
        for what in (STATUS, UPLOAD)
        for when in ("before", "during", "after")
    }
    most, left = (max(grown(trial.held["before"], trial.held[when]).values()) for when in ("during", "after"))
    wrong = refused([call for calls in trial.calls.values() for call in calls])
    ledger = trial.ledger_bytes["after"] - trial.ledger_bytes["before"]
    more = {"refused": sum(wrong.values()), "grown": most / 1e6, "left": left / 1e6, "ledger": ledger / 1e6}
    return {"scenario": trial.scenario} | times | more | {"back after": trial.back_seconds}


if __name__ == "__main__":
    main()
