"""A long run in parts: each is a fresh service, and what they found is added up."""

import json
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

from chaos.service import LEASE_SECONDS

PART_FAULTS = 100
# A fault that did not come about in so many tries never will: its point is where nobody comes any more.
TRIES_IN_VAIN = 5

Part = dict[str, Any]
"""`counts`, which add up; `takeovers` and `undisturbed takeovers`, in seconds; `broken`, what broke a promise."""


def sizes(faults: int) -> list[int]:
    """Return how many faults each part has."""
    whole, rest = divmod(faults, PART_FAULTS)
    return [PART_FAULTS] * whole + [rest] * bool(rest)


def summed(parts: list[Part]) -> dict[str, Any]:
    """Return the figures of all parts."""
    total: dict[str, Any] = {}
    for part in parts:
        for name, value in part["counts"].items():
            total[name] = (
                Counter(total.get(name)) + Counter(value) if isinstance(value, dict) else total.get(name, 0) + value
            )
    found = {name: dict(sorted(value.items())) if isinstance(value, dict) else value for name, value in total.items()}
    seconds = [each for part in parts for each in part["takeovers"]]
    undisturbed = [each for part in parts for each in part["undisturbed takeovers"]]
    return found | {
        "takeovers": len(seconds),
        "median takeover, s": statistics.median(seconds) if seconds else None,
        "longest takeover, s": max(seconds, default=None),
        "takeovers while nothing else was broken": len(undisturbed),
        "longest of them, s": max(undisturbed, default=None),
        "lease, s": LEASE_SECONDS,
    }


def broken(parts: list[Part]) -> list[str]:
    """Return what broke a promise in any part, and the faults that never came about in all of them."""
    done, tried = (summed(parts)[f"{what} by kind"] for what in ("faults", "tries"))
    in_vain = [name for name, times in tried.items() if times >= TRIES_IN_VAIN and name not in done]
    said = [f"the fault {name!r} never came about in {tried[name]} tries" for name in in_vain]
    return [line for part in parts for line in part["broken"]] + said


def done_before(path: Path, faults: int, seed: int) -> list[Part]:
    """Return the parts of such a run that were written to `path`. Raises ValueError if another run was."""
    found = json.loads(path.read_text()) if path.exists() else {"faults": faults, "seed": seed, "parts": []}
    if (found.get("faults"), found["seed"]) != (faults, seed):
        raise ValueError(f"{path.name} is of another run: of {found.get('faults')} faults with seed {found['seed']}")
    return list(found["parts"])
