"""`scripts/bench gpu` on a machine without one: every part runs, and none that breaks takes what was measured along."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.gpu import COMPILED, roofline_of
from harness.stack import ROOT

pytest.importorskip("torch")

WAYS = ("raise", "exit", "kill", "hang")
"""As tests/long/faulty_gpu_parts.py has them."""


@pytest.fixture(scope="module")
def parts() -> list[str]:
    return list(json.loads(subprocess.check_output([sys.executable, "-m", "bench.gpu_parts"], cwd=ROOT))["parts"])


def measured(out: Path, *arguments: str) -> dict[str, list[dict[str, Any]]]:
    """The rows of each part, from the file that is left."""
    command = [sys.executable, "-m", "bench.gpu", "--out", str(out), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stderr
    rows = json.loads((out / "gpu-none.json").read_text())["rows"]
    assert all(str(row["what"] or row["fails"])[:60] in done.stdout for row in rows)  # each was printed
    return {part: [row for row in rows if row["part"] == part] for part in dict.fromkeys(row["part"] for row in rows)}


def test_every_part_runs_at_reduced_size(tmp_path: Path, parts: list[str]) -> None:
    found = measured(tmp_path, "--minutes", "60")
    assert list(found) == [*parts, "goal"]
    for part in parts:
        assert found[part][-1]["what"] == "the part itself", found[part][-1]["fails"]
        assert [row["fails"] for row in found[part] if row["fails"]] in ([], ["it needs a GPU"])


def test_a_part_that_breaks_is_a_row_that_says_why_and_takes_none_along(tmp_path: Path, parts: list[str]) -> None:
    found = measured(tmp_path, "--minutes", "60", "--parts", "tests.long.faulty_gpu_parts")
    said = {
        "raise": "it ended with 1: KeyError: 'a fault that nobody expects'",
        "exit": "it ended with 71",
        "kill": "it ended with -9",
        "hang": "it was ended after",
    }
    assert list(found) == [*parts, "goal"]
    for index, part in enumerate(parts):
        first, last = found[part]
        assert first["what"]
        assert last["fails"].startswith(said[WAYS[index % len(WAYS)]])


@pytest.mark.parametrize(
    ("gpu", "card"),
    [
        ("NVIDIA H200", "H200"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA GeForce RTX 3060", "RTX 3060"),
        ("NVIDIA GeForce RTX 3060 Ti", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA T4", None),
        ("", None),
    ],
)
def test_a_clip_is_held_against_the_roofline_of_the_card_that_made_it(gpu: str, card: str | None) -> None:
    lines = json.loads(COMPILED.read_text())["roofline"]
    assert roofline_of(gpu) == (card and lines[card]["exact, s"])


def test_what_was_measured_is_there_if_the_benchmark_itself_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench.gpu", "--out", str(tmp_path), "--parts", "tests.long.faulty_gpu_parts"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout
        printed = [running.stdout.readline() for _ in range(2)]  # the fourth part would hang for long
        running.kill()
    rows = json.loads((tmp_path / "gpu-none.json").read_text())["rows"]
    assert len(rows) >= 1
    assert str(rows[0]["what"]) in printed[0]


def test_what_there_is_no_time_for_is_a_row_too(tmp_path: Path, parts: list[str]) -> None:
    found = measured(tmp_path, "--minutes", "0.01")
    assert list(found) == [*parts, "goal"]
    assert all(
        rows[0]["fails"].startswith("no time left: it may take ") for part, rows in found.items() if part != "goal"
    )
