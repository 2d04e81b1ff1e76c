"""Requests that nobody would send, to the whole service as it runs: does it ever break, or answer what the OpenAPI
document does not say?

    python -m fuzz [--examples 100] [--seed 1]

schemathesis goes over every route with all its checks, on its own and in sequences, once without keys and once with
them; hypothesis over pictures and forms. Prints the cases and the failures, writes bench/results/fuzz.json, and ends
with 1 where anything failed: an answer, a task that came of one, or a process, as its log tells.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.config.settings import Settings
from core.ledger.moves import Ledger
from core.status import Status
from harness.report import machine, print_table, write
from harness.servers import wait_until
from harness.stack import ROOT, running_stack

# Small clips, and no bound that only says that there were many requests.
SETTINGS = {"VIDEO_WIDTH": "64", "VIDEO_HEIGHT": "64", "VIDEO_FRAMES": "2", "ENGINE": "preview"}
SETTINGS |= {"RATE_LIMIT": "0", "MAX_TASKS_PER_HOUR": "0"}
PHASES = ("examples", "coverage", "fuzzing", "stateful")
UNDOCUMENTED = ("UndefinedStatusCode", "UndefinedContentType", "MissingHeaders", "JsonSchemaError", "MalformedJson")
SETTLE_SECONDS = 120.0
BY_HYPOTHESIS = ["tests/app/test_multipart.py", "tests/app/test_decoder.py"]


def fuzz_routes(
    folder: Path, examples: int, seed: int, with_keys: bool, phases: Sequence[str] = PHASES
) -> dict[str, Any]:
    """Runs schemathesis against a stack of its own. Returns its report, with the tasks that failed. Raises
    AssertionError where a log tells of a crash."""
    folder.mkdir()
    options = ["--exclude-checks", "ignored_auth"]  # where no key is asked for there is nothing to ignore
    settings = SETTINGS
    ledger = Ledger(Settings(_env_file=None, data_dir=folder / "data").resolved_database_url)
    ledger.migrate()
    if with_keys:
        _, key = ledger.keys.create("fuzz")
        settings, options = SETTINGS | {"AUTH": "keys"}, ["-H", f"Authorization: Bearer {key}"]
    with running_stack(folder, **settings) as stack:
        ended = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(ROOT / "fuzz/schemathesis.toml")),
                *("run", f"{stack.url}/openapi.json", "--checks", "all", "--continue-on-failure", "--no-color"),
                *("--max-examples", str(examples), "--seed", str(seed), "--phases", ",".join(phases)),
                *("--report", "json", "--report-json-path", str(folder / "report.json"), *options),
            ],
            cwd=ROOT,
            env=os.environ | {"SCHEMATHESIS_HOOKS": "fuzz.hooks", "PYTHONHASHSEED": "0"},
            capture_output=True,
            text=True,
            check=False,
        )
        if ended.returncode:
            print(ended.stdout, ended.stderr, file=sys.stderr)
        stack.client.get("/health/live").raise_for_status()
        report: dict[str, Any] = json.loads((folder / "report.json").read_text())
        if ended.returncode and not (report["failures"] or report["errors"]):
            report["errors"].append(f"schemathesis ended with {ended.returncode}")
        report["failed_tasks"] = failed_tasks(ledger)
        report["finished_tasks"] = tallied(ledger, "tasks_finished")
    ledger.close()
    return report


def failed_tasks(ledger: Ledger) -> list[str]:
    """Once every task has ended. None may fail: what cannot be made is refused before it is accepted."""

    def at_rest() -> bool:
        return not any(ledger.tasks(status=status, after=None, limit=1) for status in (Status.QUEUED, Status.STARTED))

    wait_until(at_rest, SETTLE_SECONDS, "the end of every task")
    failed = ledger.tasks(status=Status.FAILED, after=None, limit=100)
    deleted = tallied(ledger, "tasks_failed") - len(failed)
    told = [f"tasks that failed and were deleted since: {deleted}"] if deleted else []
    told += [f"{task.task_id} failed: {task.error and task.error.code} of {task.params}" for task in failed]
    print(*told, sep="\n", end="\n" if told else "", file=sys.stderr)
    return told


def tallied(ledger: Ledger, name: str) -> int:
    """Return how often it happened to a task, also to one that a request deleted since."""
    return sum(count for (counter, _), count in ledger.counters().items() if counter == name)


def fuzz_bytes(examples: int, seed: int) -> tuple[int, bool]:
    """Runs the tests that hypothesis feeds. Returns how many inputs there were, and whether a test failed."""
    ended = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-m",
            "fuzz",
            "--hypothesis-show-statistics",
            f"--hypothesis-seed={seed}",
            *BY_HYPOTHESIS,
        ],
        cwd=ROOT,
        env=os.environ | {"FUZZ_EXAMPLES": str(examples)},
        capture_output=True,
        text=True,
        check=False,
    )
    counts = map(int, re.findall(r"- (\d+) passing", ended.stdout))
    if ended.returncode:
        print(ended.stdout, file=sys.stderr)
    return sum(counts), ended.returncode != 0


def row(name: str, report: dict[str, Any]) -> dict[str, Any]:
    failures = {found["type"]: found["count"] for found in report["failures"]}
    return {
        "what": name,
        "cases": report["test_cases"]["generated"],
        "operations": report["operations"]["tested"],
        "server errors": sum(count for kind, count in failures.items() if "ServerError" in kind),
        "undocumented answers": sum(count for kind, count in failures.items() if kind in UNDOCUMENTED),
        "finished tasks": report["finished_tasks"],
        "failed tasks": len(report["failed_tasks"]),
        "all failures": sum(failures.values()) + len(report["errors"]) + len(report["failed_tasks"]),
    }


def main() -> None:
    arguments = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    arguments.add_argument("--examples", type=int, default=100, help="for each route and phase")
    arguments.add_argument("--seed", type=int, default=1)
    asked = arguments.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            row(name, fuzz_routes(Path(folder) / name.split()[0], asked.examples, asked.seed, with_keys))
            for name, with_keys in (("without keys", False), ("with keys", True))
        ]
    inputs, failed = fuzz_bytes(asked.examples * 10, asked.seed)
    nothing = dict.fromkeys(rows[0], None)
    rows.append(nothing | {"what": "pictures and forms", "cases": inputs, "all failures": int(failed)})
    print_table(rows)
    cases, failures = (sum(found[name] for found in rows) for name in ("cases", "all failures"))
    print(f"\n{cases} cases, {failures} failures")
    figures = {"cases": cases, "failures": failures, "seed": asked.seed, "seconds": round(time.monotonic() - begun)}
    write("fuzz", machine() | figures | {"runs": rows})
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
