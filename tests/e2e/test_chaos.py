"""A short run of `scripts/chaos`, with a fixed seed. The figures in docs/reliability.md are from long ones."""

from pathlib import Path

import pytest

from chaos.__main__ import run


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_short_chaos_breaks_no_promise(tmp_path: Path, database: str) -> None:
    figures, verdict = run(tmp_path, faults=15, seed=1, postgres=database == "postgresql", quiet=True)
    assert verdict.broken == []
    assert figures["faults"] == 15
    assert figures["tasks"] >= 10
    assert figures["takeovers"] >= 1, "no worker died at its work: this run has shown nothing"
