"""scripts/chaos with more faults than fit into a run of all tests."""

from pathlib import Path

import pytest

from chaos.__main__ import run


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_hundred_faults_break_no_promise(tmp_path: Path, database: str) -> None:
    figures, verdict = run(tmp_path, faults=100, seed=1, postgres=database == "postgresql", quiet=True)
    assert verdict.broken == []
    assert figures["faults"] == 100
    assert figures["of them graphs of 30 steps"] >= 3
    assert figures["takeovers"] >= 10
