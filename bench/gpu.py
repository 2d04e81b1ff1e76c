"""The first thing to run on a GPU: what only a GPU can tell, in at most 12 minutes, the most important first.

    scripts/bench gpu               # SVD-XT's architecture at full size, random weights
    scripts/bench gpu --minutes 5   # what can be had in that time

Each part runs in a process of its own, so that none takes the others along: one that fails, hangs or loses the GPU is a
row that says why. What a part has measured is printed and written at once. bench/gpu_parts.py has the parts. Without a
GPU the same parts run on a REDUCED model: that shows that they run, and their figures mean nothing.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.report import RESULTS, machine, print_table, write

PARTS = "bench.gpu_parts"
MINUTES = 12.0

TO_FRAMES = "picture to frames"
COMPILED = RESULTS / "svd-compiled.json"
"""What `scripts/bench compiled` has counted."""

LOG_LINES = 40

Row = dict[str, Any]
"""What was measured (`part`, `what`), its `value` and `unit`; or why not, in `fails`."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=MINUTES, help="at most (%(default)g)")
    parser.add_argument("--parts", default=PARTS, help="the module that has them (%(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the figures (%(default)s)")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    ends = time.monotonic() + 60 * given.minutes
    listed = json.loads(subprocess.check_output([sys.executable, "-m", given.parts]))
    name = "gpu-" + (listed["gpu"] or "none").lower().replace(" ", "-")
    rows: list[Row] = []
    found = {"machine": machine("torch", "diffusers", "triton") | {"gpu": listed["gpu"]}, "reduced": not listed["gpu"]}
    with tempfile.TemporaryDirectory(prefix="kinora-gpu-") as folder:
        for part, seconds in listed["parts"].items():
            for row in measured(given.parts, part, seconds, ends, Path(folder)):
                rows.append({"part": part, "what": None, "value": None, "unit": None, "fails": None} | row)
                print(*(value for value in shown(rows[-1]).values() if value is not None), sep="  ", flush=True)
                write(name, found | {"rows": rows}, given.out)
    rows += against_goals(rows, listed["gpu"] or "")
    write(name, found | {"rows": rows}, given.out)
    print()
    print_table([shown(row) | {"fails": row["fails"] and row["fails"][:80]} for row in rows])
    print(given.out / f"{name}.json")


def shown(row: Row) -> Row:
    return {name: value for name, value in row.items() if name != "log"}


def against_goals(rows: list[Row], gpu: str) -> list[Row]:
    """Rows that hold an exact compiled clip against the roofline and against diffusers as it comes, from the frames'
    seconds of this run's best clips."""
    best: dict[str, float] = {}
    for row in rows:
        if str(row["what"]).endswith(TO_FRAMES) and row["value"]:
            best[row["part"]] = min(row["value"], best.get(row["part"], row["value"]))
    mine, theirs = best.get("clip_compiled"), best.get("diffusers")
    roofline = roofline_of(gpu)
    goals = {
        "roofline, of which the goal is 1.25 × at most": mine / roofline if mine and roofline else None,
        "diffusers as it comes, of which the goal is 1.8 × at least": theirs / mine if mine and theirs else None,
    }
    why = "one of the two was not measured"
    return [
        {"part": "goal", "what": what, "value": value and round(value, 2), "unit": "×", "fails": None if value else why}
        for what, value in goals.items()
    ]


def roofline_of(gpu: str) -> float | None:
    """Return the seconds of the exact native clip by count; None for a card that was not counted."""
    counted = json.loads(COMPILED.read_text())["roofline"]
    # "NVIDIA A100-SXM4-80GB" is an A100, and "NVIDIA GeForce RTX 3060 Ti" no RTX 3060.
    return next((line["exact, s"] for card, line in counted.items() if re.search(rf"\b{card}\b(?! [A-Z])", gpu)), None)


def measured(parts: str, part: str, seconds: float, ends: float, folder: Path) -> Iterator[Row]:
    """Yield the rows of a part as they come; last, if it did not end well, one that says why."""
    left = ends - time.monotonic()
    if left < seconds / 4:
        yield {"fails": f"no time left: it may take {seconds:g} s"}
        return
    limit = min(left, seconds)
    log = folder / f"{part}.log"
    # Compiled programs of one part serve the next.
    kept = {"TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"), "TRITON_CACHE_DIR": str(folder / "triton")}
    environment = os.environ | kept | {"PYTHONUNBUFFERED": "1"}
    command = ["timeout", "--kill-after=5", f"{limit:.0f}", sys.executable, "-m", parts, part]
    begun = time.monotonic()
    with (
        log.open("w") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment) as process,
    ):
        for line in process.stdout or ():
            if line.startswith("{"):
                yield json.loads(line)
    took = time.monotonic() - begun
    if process.returncode in (124, 137):
        yield {"fails": f"it was ended after {took:.0f} s"}
    elif process.returncode:
        said = log.read_text().strip().splitlines() or ["no word of it"]
        yield {"fails": f"it ended with {process.returncode}: {said[-1]}", "log": said[-LOG_LINES:]}
    else:
        yield {"what": "the part itself", "value": round(took, 1), "unit": "s"}


if __name__ == "__main__":
    main()
