"""The docs say what the code does."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from app import errors as http_errors
from app.routes.metrics import COUNTERS, HISTOGRAMS
from core import errors
from core.config.redis_url import OPTIONS
from core.config.settings import Settings
from core.engines.base import Range
from core.engines.known import known_engines

ROOT = Path(__file__).parent.parent
DOCS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
# The branches of the error tree carry no code of their own to a caller.
BRANCHES = {errors.KinoraError, errors.InvalidRequest, errors.LimitExceeded, errors.Unavailable, errors.StepFailed}


def all_errors() -> list[type[errors.KinoraError]]:
    return [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.KinoraError)]


def codes_in_api_docs() -> set[str]:
    return set(re.findall(r"^\| `([a-z_]+)` \|", (ROOT / "docs/api.md").read_text(), re.MULTILINE))


def test_every_error_code_is_in_the_api_docs() -> None:
    internal = {errors.QueueUnavailable.code}  # nobody waits for Redis: a lost wake-up is made up for
    internal.add(errors.NotTaken.code)  # a step is tried again
    internal.add(errors.TaskExists.code)  # the answer is the task
    internal.add(errors.TaskGone.code)  # its reason stands in for it
    codes = {kind.code for kind in all_errors() if kind not in BRANCHES} - internal
    assert codes <= codes_in_api_docs()
    assert set(http_errors.CODES.values()) <= codes_in_api_docs()


def test_every_error_that_a_caller_can_get_has_a_status_and_an_example() -> None:
    internal = {errors.QueueUnavailable, errors.NotTaken, errors.TaskExists}
    told = {kind for kind in all_errors() if not issubclass(kind, errors.StepFailed)} - BRANCHES - internal
    assert {kind.__name__ for kind in told if not 400 <= kind.status <= 507} == set()
    assert {kind.__name__ for kind in told if not kind.example} == set()


def test_the_error_tree_is_drawn_as_it_is() -> None:
    drawn = re.findall(r"[├└]── (\w+)(?: +(\w+)\n|  )", errors.__doc__ or "")
    assert {name for name, _ in drawn} == {kind.__name__ for kind in all_errors()} - {"KinoraError"}
    for name, code in drawn:
        if code:
            assert getattr(errors, name).code == code


def test_every_metric_is_in_the_operations_docs() -> None:
    text = (ROOT / "docs/operations.md").read_text()
    source = "".join((ROOT / name).read_text() for name in ("app/routes/metrics.py", "app/middleware/http_metrics.py"))
    names = set(re.findall(r'"(kinora_[a-z_]+)"', source + (ROOT / "worker/metrics.py").read_text()))
    names |= {f"kinora_{name}" for name in (*COUNTERS, *HISTOGRAMS)}
    assert len(names) > 10
    assert [name for name in sorted(names) if name not in text] == []


@pytest.mark.parametrize("name", ["no_proxy", "NO_PROXY"])
def test_the_readme_adds_to_the_hosts_that_are_behind_no_proxy(name: str) -> None:
    (command,) = re.findall(r"`(export no_proxy=.+)`", (ROOT / "README.md").read_text())
    environment = {"PATH": os.environ["PATH"], name: "intern.example"}
    said = subprocess.check_output(["bash", "-c", f'{command}; echo "$no_proxy"'], env=environment, text=True)
    assert said == "127.0.0.1,intern.example\n"


def test_every_option_of_redis_url_is_in_the_operations_docs() -> None:
    _, _, text = (ROOT / "docs/operations.md").read_text().partition("\n## Redis\n")
    text = text.partition("\n## ")[0]
    assert [name for name in OPTIONS if f"`{name}" not in text] == []


def test_the_api_docs_give_the_limits_that_hold() -> None:
    svd = known_engines(Settings(_env_file=None))["svd-xt"]
    text = (ROOT / "docs/api.md").read_text()
    for name, limit in svd.limits.items():
        row = next(line for line in text.splitlines() if line.startswith("| `") and f"`{name}`" in line)
        if isinstance(limit, Range):
            assert f"{limit.low:g}–{int(limit.high)}" in row, name


def test_every_test_that_the_pages_name_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", "".join(page.read_text() for page in DOCS))
    assert len(named) > 20
    assert [name for path, name in named if f"def {name}(" not in (ROOT / path).read_text()] == []


def test_each_fault_that_is_promised_to_cost_nothing_names_its_test() -> None:
    _, _, table = (ROOT / "docs/reliability.md").read_text().partition("## Each fault, and its test")
    rows = [line for line in table.partition("\n## ")[0].splitlines() if line.startswith("| ")][2:]
    assert len(rows) > 20
    assert [row for row in rows if "`tests/" not in row] == []


@pytest.mark.parametrize("page", DOCS, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_the_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", DOCS, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_and_commands_that_the_pages_name_exist(page: Path) -> None:
    for path in re.findall(
        r"`((?:app|core|worker|keeper|sandbox|harness|mutate|fuzz|tests|scripts|docs|deploy|bench|chaos|attack)/[\w./-]+)`",
        page.read_text(),
    ):
        assert (ROOT / path).exists(), f"{page.name} names {path}"
