"""Tasks that fan out, join, plan themselves, and whose steps may fail alone."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from random import Random
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.callbacks.endpoints import CallbackEvent
from core.db.tables import now, tasks
from core.ledger.moves import Ledger
from core.status import Status
from core.task import Artifact, Callback, Claim, ErrorInfo, FinishedStep, NewStep, NewTask, progress_of
from tests.conftest import artifacts_at, expire_leases, new_task

BROKEN = ErrorInfo("engine_failed", "it broke")


def step(name: str, *needs: str, **more: Any) -> NewStep:
    return NewStep("clip", "cpu", name=name, needs=needs, **more)


def create(ledger: Ledger, *steps: NewStep, result_step: str = "") -> NewTask:
    task = replace(new_task(steps=list(steps)), result_step=result_step)
    ledger.create(task)
    return task


def claim(ledger: Ledger, task: NewTask, name: str, lease: float = 60) -> Claim:
    _, steps = ledger.task_with_steps(task.task_id)
    (step_id,) = (step.step_id for step in steps if step.name == name)
    return ledger.claim(step_id, "w", lease) or pytest.fail(f"{name} cannot be claimed")


def finish(ledger: Ledger, task: NewTask, name: str, **more: Any) -> None:
    claimed = claim(ledger, task, name)
    assert ledger.finish(claimed, artifacts_at(video=f"of {name}"), {"made": name}, {}, **more) is not None


def statuses(ledger: Ledger, task: NewTask) -> dict[str, str]:
    return {step.name: str(step.status) for step in ledger.task_with_steps(task.task_id)[1]}


@pytest.mark.parametrize("order", [("film", "subtitles"), ("subtitles", "film")])
def test_a_task_with_two_last_steps_ends_with_what_its_result_step_made(ledger: Ledger, order: tuple[str, str]) -> None:
    task = create(ledger, step("clip"), step("film", "clip"), step("subtitles", "clip"), result_step="film")
    for name in ("clip", *order):
        assert ledger.task(task.task_id).status != Status.FINISHED
        finish(ledger, task, name)
    ended = ledger.task(task.task_id)
    assert (ended.status, ended.receipt) == (Status.FINISHED, {"made": "film"})
    assert {name: each.key for name, each in ledger.artifacts(task.task_id).items()} == {"video": "of film"}


def test_steps_of_a_task_have_names_of_their_own(ledger: Ledger) -> None:
    with pytest.raises(ValueError, match="two steps of a task are called clip"):
        create(ledger, step("clip"), step("clip"))
    with pytest.raises(KeyError):
        create(ledger, step("clip", "nothing"))
    assert ledger.tasks(limit=9) == [], "nor is anything left of it"


# Planned by a step

PLANNED = [step("shot-1", "plan"), step("shot-2", "plan"), step("film", "shot-1", "shot-2")]


def test_what_a_step_plans_is_added_once_with_its_finish(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.ledger.retries.RETRY_PAUSES", (0.0,))
    task = create(ledger, step("plan", reserved_weight=99.0))
    killed_before = claim(ledger, task, "plan", lease=-1)
    assert statuses(ledger, task) == {"plan": "started"}
    expire_leases(ledger)
    heir = claim(ledger, task, "plan", lease=-1)
    assert ledger.finish(heir, {}, {}, {}, more=PLANNED, result_step="film") is not None
    expire_leases(ledger)  # killed after: the ledger has it
    for late in (killed_before, heir):
        assert ledger.finish(late, {}, {}, {}, more=PLANNED, result_step="film") is None
    assert statuses(ledger, task) == {"plan": "finished"} | dict.fromkeys(("shot-1", "shot-2", "film"), "queued")
    for name in ("shot-1", "shot-2", "film"):
        finish(ledger, task, name)
    assert ledger.task(task.task_id).receipt == {"made": "film"}


def test_the_result_stays_with_the_step_that_was_to_make_it(ledger: Ledger) -> None:
    task = create(ledger, step("plan", reserved_weight=9.0), step("film", "plan"), result_step="film")
    finish(ledger, task, "plan", more=[step("extra", "plan")])
    finish(ledger, task, "film")
    assert ledger.task(task.task_id).status == Status.STARTED
    finish(ledger, task, "extra")
    assert ledger.task(task.task_id).receipt == {"made": "film"}


def test_a_step_that_reserved_nothing_adds_nothing(ledger: Ledger) -> None:
    task = create(ledger, step("plan"))
    with pytest.raises(ValueError, match="must have reserved weight"):
        ledger.finish(claim(ledger, task, "plan"), {}, {}, {}, more=PLANNED)
    assert statuses(ledger, task) == {"plan": "started"}


@st.composite
def graphs(draw: st.DrawFn, prefix: str = "", depth: int = 0) -> list[tuple[NewStep, list[Any]]]:
    """Steps, each with those that it will add."""
    found: list[tuple[NewStep, list[Any]]] = []
    for number in range(draw(st.integers(1, 3))):
        names = [each.name for each, _ in found]
        needs = tuple(draw(st.lists(st.sampled_from(names), unique=True, max_size=2))) if names else ()
        name = f"{prefix}{number}"
        more = draw(graphs(f"{name}-", depth + 1)) if depth < 2 and draw(st.booleans()) else []
        weight, reserved = draw(st.floats(0.1, 100)), draw(st.floats(0.1, 100)) if more else 0.0
        found.append((step(name, *needs, weight=weight, reserved_weight=reserved), more))
    return found


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(graphs(), st.integers(0, 2**32))
def test_progress_never_falls(ledger: Ledger, graph: list[tuple[NewStep, list[Any]]], seed: int) -> None:
    """Whatever is planned, in whatever order steps run, are lost, and go on."""
    chance = Random(seed)
    plans = {each.name: more for each, more in graph}
    task = create(ledger, *(each for each, _ in graph))
    seen = [0]

    def look() -> None:
        _, found = ledger.task_with_steps(task.task_id)
        seen.append(progress_of(found))
        assert seen[-1] >= seen[-2]
        assert ledger.snapshots([task.task_id])[task.task_id].progress == seen[-1]

    while not ledger.task(task.task_id).status.is_final:
        _, found = ledger.task_with_steps(task.task_id)
        chosen = chance.choice([each for each in found if each.status == Status.QUEUED and not each.waits_for])
        claimed = ledger.claim(chosen.step_id, "w", 60)
        assert claimed is not None
        for progress in sorted(chance.sample(range(100), 2)):
            ledger.renew(claimed, 60, progress, "render")
            look()
        if chance.random() < 0.3:
            assert ledger.give_back(claimed)
        else:
            more = plans[chosen.name]
            plans |= {each.name: then for each, then in more}
            assert ledger.finish(claimed, {}, {}, {}, more=[each for each, _ in more]) is not None
        look()
    assert (ledger.task(task.task_id).status, seen[-1]) == (Status.FINISHED, 100)


# Steps that fail alone


def film(ledger: Ledger) -> NewTask:
    shots = [step(f"shot-{number}", essential=False) for number in (1, 2, 3)]
    fits = [step(f"fit-{number}", f"shot-{number}", essential=False) for number in (1, 2, 3)]
    return create(ledger, *shots, *fits, step("film", "fit-1", "fit-2", "fit-3"))


def test_a_shot_that_fails_lets_the_others_finish(ledger: Ledger) -> None:
    task = film(ledger)
    running = claim(ledger, task, "shot-3")
    assert ledger.fail(claim(ledger, task, "shot-2"), BROKEN)
    assert statuses(ledger, task) == {
        **{"shot-1": "queued", "shot-2": "failed", "shot-3": "started"},
        **{"fit-1": "queued", "fit-2": "canceled", "fit-3": "queued", "film": "canceled"},
    }
    assert ledger.task(task.task_id).status == Status.STARTED
    assert ledger.finish(running, {}, {}, {}) is not None
    for name in ("shot-1", "fit-1", "fit-3"):
        assert ledger.task(task.task_id).status == Status.STARTED
        finish(ledger, task, name)
    ended = ledger.task(task.task_id)
    assert (ended.status, ended.error) == (Status.FAILED, BROKEN)
    _, steps = ledger.task_with_steps(task.task_id)
    assert {each.name: each.error for each in steps if each.error} == {"shot-2": BROKEN}


def test_a_task_of_which_several_shots_failed_says_each_error(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.ledger.retries.RETRY_PAUSES", (0.0,))
    task = film(ledger)
    assert ledger.lose(claim(ledger, task, "shot-3"), ErrorInfo("gpu_lost", "it is gone"), max_attempts=1)
    assert ledger.fail(claim(ledger, task, "shot-1"), BROKEN)
    finish(ledger, task, "shot-2")
    finish(ledger, task, "fit-2")
    ended = ledger.task(task.task_id)
    last = "every attempt died before it could finish; the last: it is gone"
    assert ended.status == Status.FAILED
    assert ended.error == ErrorInfo("engine_failed", f"shot-1: it broke; shot-3: {last}")


def test_an_essential_step_that_fails_ends_its_task_at_once(ledger: Ledger) -> None:
    task = create(ledger, step("music"), step("shot", essential=False), step("film", "music", "shot"))
    running = claim(ledger, task, "shot")
    assert ledger.fail(claim(ledger, task, "music"), BROKEN)
    assert (ledger.task(task.task_id).status, ledger.task(task.task_id).error) == (Status.FAILED, BROKEN)
    assert ledger.finish(running, {}, {}, {}) is None
    assert statuses(ledger, task) == {"music": "failed", "shot": "canceled", "film": "canceled"}


@pytest.mark.parametrize("move", ["fail", "lose", "take over", "cancel"])
def test_who_ends_a_task_locks_its_steps_in_the_order_in_which_leases_are_renewed(ledger: Ledger, move: str) -> None:
    """On PostgreSQL each would wait for the other; SQLite has one lock."""
    task = create(ledger, step("music"), step("shot"))
    held = [claim(ledger, task, name) for name in ("music", "shot")]
    first, second = sorted(each.step.step_id for each in held)
    ending = next(each for each in held if each.step.step_id == second)
    lease = next(each for each in ledger.held_leases() if each.step_id == second)
    moves = {
        "fail": lambda: ledger.fail(ending, BROKEN),
        "lose": lambda: ledger.lose(ending, BROKEN, max_attempts=1),
        "take over": lambda: ledger.take_over(lease, max_attempts=1),
        "cancel": lambda: ledger.cancel(task.task_id),
    }
    if ledger.database.dialect.name != "postgresql":
        moves[move]()
    else:
        lock = sa.text("SELECT 1 FROM steps WHERE step_id = :step_id FOR UPDATE NOWAIT")
        with ThreadPoolExecutor(1) as pool, ledger.database.connect() as renewer:
            transaction = renewer.begin()
            renewer.execute(lock, {"step_id": first})
            moved = pool.submit(moves[move])
            time.sleep(0.3)
            renewer.execute(lock, {"step_id": second})
            assert not moved.done()
            transaction.rollback()
            moved.result(10)
    assert ledger.task(task.task_id).status == (Status.CANCELED if move == "cancel" else Status.FAILED)


# What a step keeps


def test_a_checkpoint_is_for_the_next_attempt_and_only_the_newest_writes_it(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.ledger.retries.RETRY_PAUSES", (0.0,))
    task = create(ledger, step("clip"))
    late = claim(ledger, task, "clip", lease=-1)
    assert late.step.checkpoint is None
    assert ledger.checkpoint(late, {"intended": True})
    assert ledger.checkpoint(late, {"submitted": "job-1"})
    expire_leases(ledger)
    heir = claim(ledger, task, "clip")
    assert heir.step.checkpoint == {"submitted": "job-1"}
    assert not ledger.checkpoint(late, {"submitted": "job-2"})
    _, (found,) = ledger.task_with_steps(task.task_id)
    assert found.checkpoint == {"submitted": "job-1"}
    cost = {"amount": 0.25, "currency": "USD"}
    assert ledger.finish(heir, [], {}, {}, cost=cost) is not None
    _, (found,) = ledger.task_with_steps(task.task_id)
    assert found.cost == cost
    assert not ledger.checkpoint(heir, {})


def test_a_step_may_have_fewer_attempts_than_the_operator_allows(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.ledger.retries.RETRY_PAUSES", (0.0,))
    task = create(ledger, step("once", max_attempts=1, essential=False), step("often"))
    for name in ("once", "often"):
        claim(ledger, task, name, lease=-1)
    expire_leases(ledger, max_attempts=9)
    assert statuses(ledger, task) == {"once": "failed", "often": "queued"}


def test_a_task_of_which_nothing_is_left_to_do_ends_as_it_begins(ledger: Ledger) -> None:
    done = FinishedStep((Artifact("video", "k", 1, "0" * 64),), {"made": "before"})
    task = create(ledger, step("clip", finished=FinishedStep((), {})), step("film", "clip", finished=done))
    ended = ledger.task(task.task_id)
    assert (ended.status, ended.receipt) == (Status.FINISHED, {"made": "before"})
    assert ended.started_at is not None
    assert list(ledger.artifacts(task.task_id)) == ["video"]
    assert [str(move.status) for move in ledger.snapshots([task.task_id])[task.task_id].moves] == [
        *("queued", "started", "finished")
    ]
    half = create(ledger, step("clip", finished=done), step("film", "clip"))
    assert statuses(ledger, half) == {"clip": "finished", "film": "queued"}
    finish(ledger, half, "film")
    assert ledger.task(half.task_id).status == Status.FINISHED


def test_a_planned_step_that_needs_one_that_failed_is_canceled(ledger: Ledger) -> None:
    task = create(ledger, step("plan", reserved_weight=3.0), step("shot", essential=False))
    planning = claim(ledger, task, "plan")
    assert ledger.fail(claim(ledger, task, "shot"), BROKEN)
    more = [step("fit", "shot"), step("join", "fit"), step("other", "plan")]
    assert ledger.finish(planning, [], {}, {}, more=more) is not None
    assert statuses(ledger, task) == {
        **{"plan": "finished", "shot": "failed"},
        **{"fit": "canceled", "join": "canceled", "other": "queued"},
    }
    finish(ledger, task, "other")
    assert ledger.task(task.task_id).status == Status.FAILED


def test_an_essential_error_is_said_before_others(ledger: Ledger) -> None:
    task = create(ledger, step("shot", essential=False), step("mix"))
    assert ledger.fail(claim(ledger, task, "shot"), BROKEN)
    assert ledger.fail(claim(ledger, task, "mix"), ErrorInfo("encoding_failed", "no room"))
    assert ledger.task(task.task_id).error == ErrorInfo("encoding_failed", "mix: no room; shot: it broke")


def test_progress_is_told_at_the_end_of_steps_too(ledger: Ledger) -> None:
    steps = [step(f"shot-{number}") for number in range(10)]
    callback = Callback("https://example.com/", [CallbackEvent.PROGRESS, CallbackEvent.FINISHED])
    task = new_task(steps=steps, callback=callback)
    ledger.create(task)
    for each in steps:
        finish(ledger, task, each.name)
    events = [delivery.event for delivery in ledger.deliveries.due(99)]
    assert events == ["task.progress"] * 9 + ["task.finished"]


def test_a_queued_step_of_a_task_that_has_ended_holds_up_nobody(ledger: Ledger) -> None:
    """There is none; but one would come first for ever."""
    task, other = create(ledger, step("clip")), create(ledger, step("clip"))
    with ledger.database.begin() as tx:
        ended = {"status": Status.CANCELED, "finished_at": now()}
        tx.execute(tasks.update().where(tasks.c.task_id == task.task_id).values(ended))
    found = ledger.claim_next("cpu", "w", 60)
    assert found is not None
    assert found.task.task_id == other.task_id


@pytest.mark.parametrize("end", ["fail", "lose", "take over"])
def test_what_another_step_has_warned_of_stays_as_a_task_ends_that_may_have_been_paid_for(
    ledger: Ledger, end: str
) -> None:
    task = create(ledger, step("clip"), step("hosted"))
    asking = claim(ledger, task, "hosted", lease=0)
    ledger.checkpoint(asking, {"provider": "harness", "intended": True})
    ledger.finish(claim(ledger, task, "clip"), [], {}, {}, ["the GPU's memory ran out"])
    if end == "fail":
        ledger.fail(asking, BROKEN)
    elif end == "lose":
        ledger.lose(asking, BROKEN, max_attempts=1)
    else:
        expire_leases(ledger, max_attempts=1)
    ended = ledger.task(task.task_id)
    paid = "harness may have been asked, and paid, for nothing: its answer was lost"
    assert (ended.status, ended.warnings) == (Status.FAILED, ["the GPU's memory ran out", paid])
