"""A short run of `scripts/chaos`, with a fixed seed. The figures in docs/reliability.md are from long ones."""

import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from chaos.__main__ import run
from chaos.parts import summed
from chaos.reconcile import unexplained
from chaos.service import Death, Trouble
from core.db.tables import steps
from core.ledger.moves import Ledger
from core.task import ErrorInfo
from tests.conftest import new_task

# Of which come first, with this seed: workers of both kinds killed at their work, and answers that are lost.
FAULTS = 5  # tests/long has a hundred


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_short_chaos_breaks_no_promise(tmp_path: Path, database: str) -> None:
    part, verdict = run(tmp_path, faults=FAULTS, seed=2796, postgres=database == "postgresql", quiet=True)
    figures = summed([part])
    assert verdict.broken == []
    assert figures["faults"] == FAULTS
    assert figures["tasks"] >= FAULTS
    for shape in ("graphs of 30 steps", "graphs that plan themselves", "graphs with a step that fails"):
        assert figures[f"of them {shape}"] >= 1
    assert figures["graphs with net steps"] >= 3
    assert figures["jobs that the provider took"] >= 3
    assert figures["takeovers"] >= 1, "no worker died at its work: this run has shown nothing"


def started_at(ledger: Ledger, step_id: str) -> float:
    with ledger.database.connect() as connection:
        return float(connection.execute(sa.select(steps.c.started_at).where(steps.c.step_id == step_id)).scalar_one())


@pytest.fixture
def exhausted(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> list[Death]:
    """The deaths of the three workers that lost a task's only step."""
    monkeypatch.setattr("core.ledger.retries.RETRY_PAUSES", (0.0,))
    ((step_id, _),) = ledger.create(new_task())
    deaths = []
    for pid in (11, 12, 13):
        claim = ledger.claim(step_id, f"a-host-{pid}-abc", 60)
        assert claim is not None
        deaths.append(Death(pid, started_at(ledger, step_id)))  # by the ledger's clock, which counts in milliseconds
        assert ledger.lose(claim, ErrorInfo("gpu_lost", "for once"), 3)
    return deaths


def test_a_task_whose_workers_were_killed_each_time_is_explained(ledger: Ledger, exhausted: list[Death]) -> None:
    assert unexplained(ledger, exhausted, []) == []


def test_a_task_with_an_attempt_that_nobody_killed_is_not(ledger: Ledger, exhausted: list[Death]) -> None:
    (said,) = unexplained(ledger, exhausted[1:], [])
    assert "attempts_exhausted after 2 attempts" in said
    later = [Death(death.pid, death.at + 60) for death in exhausted]
    assert len(unexplained(ledger, later, [])) == 1


def test_an_attempt_is_explained_by_a_ledger_that_was_away_and_by_no_other_trouble(
    ledger: Ledger, exhausted: list[Death]
) -> None:
    begun, over = exhausted[0].at - 1, exhausted[0].at + 1
    assert unexplained(ledger, exhausted[1:], [Trouble("PostgreSQL crashed", begun, over)]) == []
    assert len(unexplained(ledger, exhausted[1:], [Trouble("Redis wiped", begun, over)])) == 1


def test_a_task_that_failed_by_an_error_of_ours_is_never_explained(ledger: Ledger) -> None:
    ((step_id, _),) = ledger.create(new_task())
    claim = ledger.claim(step_id, "a-host-11-abc", 60)
    assert claim is not None
    ledger.fail(claim, ErrorInfo("internal_error", "it crashed"))
    (said,) = unexplained(ledger, [Death(11, time.time())], [])
    assert "failed with internal_error" in said
