"""scripts/chaos with more faults than fit into a run of all tests."""

from pathlib import Path

import pytest

from chaos.__main__ import run
from chaos.parts import broken, summed


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_hundred_faults_break_no_promise(tmp_path: Path, database: str) -> None:
    part, _ = run(tmp_path, faults=100, seed=1, postgres=database == "postgresql", quiet=True)
    figures = summed([part])
    assert broken([part]) == []
    assert figures["faults"] == 100
    assert figures["of them graphs of 30 steps"] >= 3
    assert figures["of them graphs that plan themselves"] >= 10
    assert figures["may have been paid twice, marked so"] >= 1, "no answer was lost: this run has shown nothing of that"
    assert figures["takeovers"] >= 10
