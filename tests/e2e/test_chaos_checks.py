"""Each check that scripts/chaos ends with can fail: what it looks at is broken here, one thing at a time."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from chaos.__main__ import main
from chaos.graphs import graph, hosted
from chaos.parts import broken, done_before, sizes, summed
from chaos.reconcile import PROVIDER_EXPLAINS, Verdict, check_graphs, check_provider, unexplained
from chaos.service import Death, Trouble
from core.db.tables import steps, tasks
from core.errors import NotTaken, TimeLimitExceeded, Unavailable
from core.ids import new_id
from core.ledger.moves import Ledger
from core.status import Status
from core.task import Claim, ErrorInfo, NewStep, Step
from harness.provider import Provider
from harness.report import write
from tests.conftest import new_task

SAID = ["harness may have been asked, and paid, for nothing: its answer was lost"]


@pytest.fixture
def provider() -> Iterator[Provider]:
    provider = Provider()
    yield provider
    provider.close()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.ledger.retries.RETRY_PAUSES", (0.0,))


# Steps that a provider does


@pytest.fixture
def asking(ledger: Ledger) -> Claim:
    """The first attempt at the only step of a task."""
    ((step_id, _),) = ledger.create(new_task(steps=[NewStep("hosted", "net")]))
    return claimed(ledger, step_id)


def claimed(ledger: Ledger, step_id: str, worker_id: str = "a-host-11-abc") -> Claim:
    claim = ledger.claim(step_id, worker_id, 60)
    assert claim is not None
    return claim


def again(ledger: Ledger, before: Claim) -> Claim:
    """The next attempt."""
    assert ledger.give_back(before)
    return claimed(ledger, before.step.step_id)


def submit(provider: Provider, claim: Claim) -> dict[str, str]:
    asked = {"step_id": claim.step.step_id, "attempt": claim.step.attempt}
    return provider.submit("/jobs", json.dumps(asked).encode())[1]


def verdict_on(ledger: Ledger, provider: Provider) -> Verdict:
    verdict = Verdict()
    check_provider(verdict, ledger, provider)
    return verdict


def test_a_step_that_was_asked_for_once_and_polled_by_others_is_fine(
    ledger: Ledger, asking: Claim, provider: Provider
) -> None:
    handle = submit(provider, asking)
    ledger.checkpoint(asking, {"submitted": handle, "lost": 0})
    heir = again(ledger, asking)
    provider.look(f"/jobs/{handle['job']}", b"")
    ledger.finish(heir, [], {}, {})
    verdict = verdict_on(ledger, provider)
    assert (verdict.broken, verdict.marked, verdict.heard_again) == ([], 0, 0)


def test_a_step_that_is_asked_for_again_though_its_handle_is_recorded_is_paid_twice(
    ledger: Ledger, asking: Claim, provider: Provider
) -> None:
    ledger.checkpoint(asking, {"submitted": submit(provider, asking), "lost": 0})
    submit(provider, again(ledger, asking))
    verdict = verdict_on(ledger, provider)
    (said,) = verdict.paid_twice
    assert "was asked for again after its attempt 1 had a handle" in said
    assert said in verdict.broken


def test_so_is_one_whose_new_handle_was_written_over_the_old_one(
    ledger: Ledger, asking: Claim, provider: Provider
) -> None:
    provider.look(f"/jobs/{submit(provider, asking)['job']}", b"")
    heir = again(ledger, asking)
    ledger.checkpoint(heir, {"submitted": submit(provider, heir), "lost": 1})
    assert len(verdict_on(ledger, provider).paid_twice) == 1


def test_an_old_attempt_that_wakes_up_and_asks_is_not_paid_for_a_recorded_handle_but_must_be_counted(
    ledger: Ledger, asking: Claim, provider: Provider
) -> None:
    heir = again(ledger, asking)
    handle = submit(provider, heir)
    submit(provider, asking)
    for lost, unmarked in ((1, 0), (0, 1)):
        ledger.checkpoint(heir, {"submitted": handle, "lost": lost})
        verdict = verdict_on(ledger, provider)
        assert (verdict.paid_twice, len(verdict.unmarked), verdict.heard_again) == ([], unmarked, 1)


@pytest.mark.parametrize("end", ["finished", "failed", "canceled", "canceled as it asked"])
@pytest.mark.parametrize(("warnings", "unmarked"), [(None, 0), (SAID, 0), (["something else"], 1), ([], 1)])
def test_what_may_have_been_paid_for_nothing_must_be_said_by_the_task(
    ledger: Ledger, asking: Claim, provider: Provider, warnings: list[str] | None, unmarked: int, end: str
) -> None:
    submit(provider, asking)
    ledger.checkpoint(asking, {"intended": True, "lost": 0})
    assert verdict_on(ledger, provider).broken == [], "the next attempt will count it"
    heir = asking if end == "canceled as it asked" else again(ledger, asking)
    if heir != asking:
        ledger.checkpoint(heir, {"provider": "harness", "submitted": submit(provider, heir), "lost": 1})
    if end == "finished":
        ledger.finish(heir, [], {}, {})
    elif end == "failed":
        ledger.fail(heir, ErrorInfo("engine_failed", "it does not want to"))
    else:
        ledger.cancel(heir.task.task_id)
    if warnings is not None:  # None: as the ledger has written them
        with ledger.database.begin() as connection:
            connection.execute(tasks.update().values(warnings=warnings))
    verdict = verdict_on(ledger, provider)
    assert (len(verdict.unmarked), verdict.marked, verdict.heard_again) == (unmarked, 1, heir != asking)
    assert verdict.broken == verdict.unmarked


def test_a_submit_of_which_the_ledger_knows_nothing_is_found(ledger: Ledger, asking: Claim, provider: Provider) -> None:
    submit(provider, asking)
    (said,) = verdict_on(ledger, provider).unmarked
    assert "was asked for 1 times, and the ledger knows 0" in said


# Graphs


def recorded(ledger: Ledger, shape: str) -> str:
    task_id = new_id()
    ledger.create(graph(task_id, "http://127.0.0.1:9", shape))
    return task_id


def do(ledger: Ledger, step: Step) -> None:
    """As chaos/steps.py would."""
    claim = claimed(ledger, step.step_id)
    if step.kind == "fails":
        assert ledger.fail(claim, ErrorInfo("engine_failed", "it fails each time"))
        return
    plan = hosted(f"{claim.step.attempt} ") if step.kind == "plans" else None
    more, result_step = (plan.new_steps(), plan.result_step) if plan else ([], None)
    assert ledger.finish(claim, [], {}, {}, more=more, result_step=result_step) is not None


def do_all(ledger: Ledger, task_id: str) -> None:
    while ready := [s for s in ledger.task_with_steps(task_id)[1] if s.status == Status.QUEUED and not s.waits_for]:
        do(ledger, ready[0])


def verdict_on_graphs(ledger: Ledger) -> Verdict:
    verdict = Verdict()
    check_graphs(verdict, ledger)
    return verdict


def change(ledger: Ledger, task_id: str, step: str, **values: object) -> None:
    its = sa.and_(steps.c.task_id == task_id, steps.c.name == step)
    with ledger.database.begin() as tx:
        assert tx.execute(steps.update().where(its).values(**values)).rowcount == 1


@pytest.fixture
def planned(ledger: Ledger) -> str:
    """A task that planned itself, in its second attempt, and finished."""
    task_id = recorded(ledger, "planned")
    (planning,) = ledger.task_with_steps(task_id)[1]
    assert ledger.give_back(claimed(ledger, planning.step_id))
    assert verdict_on_graphs(ledger).broken == []
    do_all(ledger, task_id)
    assert ledger.task(task_id).status == Status.FINISHED
    assert verdict_on_graphs(ledger).broken == []
    return task_id


def test_a_plan_that_lacks_a_step_is_lost(ledger: Ledger, planned: str) -> None:
    change(ledger, planned, "2 film", name="another")
    verdict = verdict_on_graphs(ledger)
    assert "lacks ['2 film']" in verdict.lost[0]
    assert "has ['another']" in verdict.double[0]


def test_a_plan_of_which_another_attempt_added_a_part_too_is_double(ledger: Ledger, planned: str) -> None:
    change(ledger, planned, "plan", attempt=3)
    assert "'2 film'" in verdict_on_graphs(ledger).double[0]


def test_a_plan_of_a_step_that_never_finished_is_double(ledger: Ledger, planned: str) -> None:
    change(ledger, planned, "plan", status=Status.CANCELED)
    assert "'2 film'" in verdict_on_graphs(ledger).double[0]


@pytest.fixture
def failing(ledger: Ledger) -> str:
    """A task of which one step failed, and all that does not need it finished."""
    task_id = recorded(ledger, "failing")
    do_all(ledger, task_id)
    assert verdict_on_graphs(ledger).broken == []
    assert unexplained(ledger, [], []) == [], "it always does"
    return task_id


def test_a_task_that_finishes_though_a_step_of_it_fails_is_found(ledger: Ledger, failing: str) -> None:
    with ledger.database.begin() as tx:
        tx.execute(tasks.update().where(tasks.c.task_id == failing).values(status=Status.FINISHED))
    assert "is finished, and has a step that fails" in verdict_on_graphs(ledger).lost[0]


def test_a_task_that_does_not_say_why_it_failed_is_found(ledger: Ledger, failing: str) -> None:
    with ledger.database.begin() as tx:
        tx.execute(tasks.update().where(tasks.c.task_id == failing).values(error_message="for no reason"))
    assert "for no reason" in verdict_on_graphs(ledger).lost[0]


def test_a_sibling_of_a_failed_step_that_is_not_done_is_found(ledger: Ledger, failing: str) -> None:
    change(ledger, failing, "1 hosted", status=Status.CANCELED)
    assert "['1 hosted', 'fails', 'after']" in verdict_on_graphs(ledger).lost[0]


def test_a_step_that_fails_by_another_error_than_it_was_told_to_is_not_explained(ledger: Ledger, failing: str) -> None:
    change(ledger, failing, "fails", error_code="internal_error")
    assert "failed with internal_error" in unexplained(ledger, [], [])[0]


# What a provider's fault explains


@pytest.mark.parametrize(
    ("error", "explained_by"),
    [
        (TimeLimitExceeded, {"hangs", "answers late", "is away"}),
        (Unavailable, {"loses answers", "is away"}),
        (NotTaken, {"refuses"}),
    ],
)
def test_an_attempt_is_explained_by_the_faults_of_the_provider_that_end_attempts_so(
    ledger: Ledger, asking: Claim, error: type[Unavailable], explained_by: set[str]
) -> None:
    claim, begun = asking, asking.started_at
    for attempt in (1, 2, 3):
        assert ledger.lose(claim, ErrorInfo(error.code, "for once"), 3)
        if attempt < 3:
            claim = claimed(ledger, claim.step.step_id)
    for mode in PROVIDER_EXPLAINS:
        found = unexplained(ledger, [], [Trouble(f"provider {mode}", begun - 1, begun + 60)])
        assert (found == []) == (mode in explained_by)
    assert len(unexplained(ledger, [], [Trouble("provider hangs", begun - 9, begun - 8)])) == 1
    assert len(unexplained(ledger, [Death(12, begun)], [])) == 1


# Parts


def part(faults: int, *takeovers: float, **failed_with: int) -> dict[str, object]:
    counts = {"faults": faults, "failed with": failed_with, "minutes": 1.5}
    return {"counts": counts, "takeovers": list(takeovers), "undisturbed takeovers": [], "broken": []}


def test_a_long_run_comes_in_parts_whose_figures_add_up() -> None:
    assert (sizes(500), sizes(120), sizes(5)) == ([100] * 5, [100, 20], [5])
    found = summed([part(100, 1.0, 9.0, gone=1), part(20, 2.0, gone=2, away=1)])
    expected = {"faults": 120, "minutes": 3.0, "failed with": {"away": 1, "gone": 3}, "takeovers": 3}
    expected |= {"median takeover, s": 2.0, "longest takeover, s": 9.0, "longest of them, s": None}
    assert found.items() >= expected.items()


def test_a_fault_that_never_comes_about_is_found_over_all_parts() -> None:
    def tried(name: str, times: int, done: int) -> dict[str, object]:
        by_kind = {"faults by kind": {name: done} if done else {}, "tries by kind": {name: times}}
        return part(0) | {"counts": by_kind}

    assert broken([tried("worker killed", 4, 0)]) == []
    assert broken([tried("worker killed", 4, 0), tried("worker killed", 4, 1)]) == []
    (said,) = broken([tried("worker killed", 4, 0), tried("worker killed", 4, 0)])
    assert said == "the fault 'worker killed' never came about in 8 tries"
    assert broken([tried("worker killed", 1, 1) | {"broken": ["a task is lost"]}]) == ["a task is lost"]


def test_a_run_goes_on_behind_its_own_parts_and_no_others(tmp_path: Path) -> None:
    assert done_before(tmp_path / "chaos-sqlite.json", 500, 1) == []
    path = write("chaos-sqlite", {"faults": 500, "seed": 1, "parts": [part(100)]}, tmp_path)
    assert done_before(path, 500, 1) == [part(100)]
    for faults, seed in ((500, 2), (400, 1)):
        with pytest.raises(ValueError, match="is of another run: of 500 faults with seed 1"):
            done_before(path, faults, seed)


def test_a_run_that_was_broken_off_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[tuple[int, int]] = []

    def run_part(faults: int, seed: int, _postgres: bool) -> dict[str, object]:
        if len(ran) == 2:
            raise KeyboardInterrupt
        ran.append((faults, seed))
        by_kind = {"faults by kind": {"worker killed": faults}, "tries by kind": {"worker killed": faults}}
        return part(faults) | {"counts": {"faults": faults, **by_kind}}

    monkeypatch.setattr("chaos.__main__.RESULTS", tmp_path)
    monkeypatch.setattr("chaos.__main__.run_part", run_part)
    monkeypatch.setattr("sys.argv", ["chaos", "--faults", "250", "--seed", "7"])
    with pytest.raises(KeyboardInterrupt):
        main()
    assert json.loads((tmp_path / "chaos-sqlite.json").read_text())["figures"]["faults"] == 200
    before, ran[:] = list(ran), []
    monkeypatch.setattr("sys.argv", ["chaos", "--faults", "250", "--seed", "7", "--resume"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert (before, ran, ended.value.code) == ([(100, 7), (100, 8)], [(50, 9)], False)
    assert json.loads((tmp_path / "chaos-sqlite.json").read_text())["figures"]["faults"] == 250
    assert "worker killed" in capsys.readouterr().out
