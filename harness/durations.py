"""A plugin of pytest: keeps how long each test took, and has the files that took longest begin first.

A whole run leaves its durations in artifacts/durations.json; bench/results/ci.json keeps those of a quiet machine.
"""

import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

ROOT = Path(__file__).parent.parent
KEPT, NEW = ROOT / "bench" / "results" / "ci.json", ROOT / "artifacts" / "durations.json"
# What is run by one process though it is more than a file: a folder whose tests share one service; and containers with
# the browser, which drops its connections (ERR_NETWORK_CHANGED) when a network of theirs comes or goes.
TOGETHER = {
    "tests/clients/": "tests/clients",
    "tests/browser/": "containers and browser",
    "tests/e2e/test_compose.py": "containers and browser",
}
SHOWN = 15


def group_of(nodeid: str) -> str:
    """Return what is run by one process: the test's file, or what TOGETHER says."""
    found = (group for beginning, group in TOGETHER.items() if nodeid.startswith(beginning))
    return next(found, nodeid.partition("::")[0])


class Durations:
    def __init__(self) -> None:
        self.begun = time.monotonic()
        self.tests: dict[str, float] = defaultdict(float)

    def groups(self) -> dict[str, float]:
        sums: dict[str, float] = defaultdict(float)
        for nodeid, seconds in self.tests.items():
            sums[group_of(nodeid)] += seconds
        return sums

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.tests[report.nodeid] += report.duration

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        groups = longest(self.groups())
        terminalreporter.section(f"longest of {sum(groups.values()):.0f} s")
        for name, seconds in list(groups.items())[:SHOWN]:
            terminalreporter.line(f"{seconds:7.1f} s  {name}")
        NEW.parent.mkdir(exist_ok=True)
        tests = {name: seconds for name, seconds in longest(self.tests).items() if seconds >= 0.5}
        figures = {"wall_seconds": round(time.monotonic() - self.begun, 1), "files": groups, "tests": tests}
        NEW.write_text(json.dumps(figures, indent=1) + "\n")


def longest(seconds: dict[str, float]) -> dict[str, float]:
    return {name: round(seconds[name], 1) for name in sorted(seconds, key=lambda name: -seconds[name])}


def is_whole(config: pytest.Config) -> bool:
    """Whether everything is run: nobody named a test, or chose some."""
    chosen = ("file_or_dir", "keyword", "markexpr", "lf", "deselect")
    return not any(getattr(config.option, name, None) for name in chosen)


def pytest_configure(config: pytest.Config) -> None:
    if is_whole(config) and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Durations())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if is_whole(config) and KEPT.exists():
        kept: dict[str, float] = json.loads(KEPT.read_text())["files"]
        items.sort(key=lambda item: -kept.get(group_of(item.nodeid), 0.0))


class ByGroup(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByGroup:
    return ByGroup(config, log)
