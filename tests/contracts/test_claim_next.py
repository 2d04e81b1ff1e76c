"""Which step is claimed next: tasks take turns, and steps of one task come in the order of its plan."""

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa

from core.ledger.moves import Ledger
from core.status import Status
from core.task import Claim, NewStep, NewTask
from tests.conftest import new_task

SHOTS = 40


def film(shots: int = SHOTS) -> NewTask:
    steps = [NewStep("clip", "cpu", name=f"shot-{number}") for number in range(shots)]
    return new_task(steps=[*steps, NewStep("join", "cpu", needs=tuple(step.name for step in steps), name="film")])


def claim_next(ledger: Ledger, worker: str = "w", **more: Any) -> Claim | None:
    return ledger.claim_next("cpu", worker, 60, **more)


def serve(ledger: Ledger, workers: int) -> list[tuple[str, str]]:
    """Work off all that there is, `workers` steps at a time. Returns task and step in the order of their claims."""
    served: list[tuple[str, str]] = []
    running: list[Claim] = []
    while True:
        while len(running) < workers and (claim := claim_next(ledger, f"w{len(running)}")):
            running.append(claim)
            served.append((claim.task.task_id, claim.step.name))
        if not running:
            return served
        assert ledger.finish(running.pop(0), [], {}, {}) is not None


@pytest.mark.parametrize("workers", [1, 2])
def test_two_films_and_ten_clips_take_turns(ledger: Ledger, workers: int) -> None:
    films, clips = [film(), film()], [new_task() for _ in range(10)]
    for task in (films[0], *clips[:5], films[1], *clips[5:]):
        ledger.create(task)
    served = serve(ledger, workers)
    assert len(served) == 2 * (SHOTS + 1) + 10
    for task in films:
        names = [name for task_id, name in served if task_id == task.task_id]
        assert names == [f"shot-{number}" for number in range(SHOTS)] + ["film"]
    # No clip waits for a film's whole graph: each is among the first, one step a task.
    first = [task_id for task_id, _ in served[:12]]
    assert Counter(first) == dict.fromkeys([task.task_id for task in (*films, *clips)], 1)
    # Nor does one film wait for the other.
    rest = [task_id for task_id, _ in served[12:]]
    assert max(rest[:20].count(task.task_id) for task in films) <= 11
    assert {str(ledger.task(task.task_id).status) for task in (*films, *clips)} == {"finished"}


def test_a_clip_that_comes_while_a_film_is_made_is_next_but_one_at_most(ledger: Ledger) -> None:
    ledger.create(film())
    for _ in range(5):
        claim = claim_next(ledger)
        assert claim is not None
        ledger.finish(claim, [], {}, {})
    clip = new_task()
    ledger.create(clip)
    following = [claim_next(ledger) for _ in range(2)]
    assert clip.task_id in {claim.task.task_id for claim in following if claim}


def test_what_rests_or_is_of_another_queue_is_not_claimed(ledger: Ledger) -> None:
    ledger.create(new_task(steps=[NewStep("clip", "gpu")]))
    assert claim_next(ledger) is None
    ledger.create(new_task())
    claim = claim_next(ledger)
    assert claim is not None
    assert ledger.give_back(claim, rest_seconds=60)
    assert claim_next(ledger) is None
    assert ledger.peek_next("cpu") is None
    (rest,) = ledger.rests()
    ledger.end_rest(rest)
    again = claim_next(ledger)
    assert again is not None
    assert (again.step.step_id, again.step.attempt) == (claim.step.step_id, 2)


def test_steps_of_engines_that_are_not_loaded_give_way_for_a_while(ledger: Ledger) -> None:
    tasks = {engine: new_task(engine) for engine in ("turbo", "svd-xt", "svd")}
    for task in tasks.values():
        ledger.create(task)
    needs_none = new_task(steps=[NewStep("join", "cpu")])
    ledger.create(needs_none)

    def first(*loaded: str, seconds: float = 30.0) -> str:
        found = ledger.peek_next("cpu", loaded, seconds)
        assert found is not None
        return found[1].task_id

    assert first() == needs_none.task_id
    assert first("svd") == tasks["svd"].task_id
    assert first("svd", "svd-xt") == tasks["svd-xt"].task_id
    assert first("svd", seconds=0.0) == tasks["turbo"].task_id, "it has waited long enough"
    order = []
    while claim := claim_next(ledger, loaded=["svd"], defer_seconds=30.0):
        order.append(claim.task.task_id)
    assert order == [tasks["svd"].task_id, needs_none.task_id, tasks["turbo"].task_id, tasks["svd-xt"].task_id]


def test_what_is_next_is_what_is_claimed_next(ledger: Ledger) -> None:
    for task in (film(3), new_task(), film(2)):
        ledger.create(task)
    while found := ledger.peek_next("cpu"):
        claim = claim_next(ledger)
        assert claim is not None
        assert (found[0].step_id, found[1].task_id) == (claim.step.step_id, claim.task.task_id)
        ledger.finish(claim, [], {}, {})


def test_of_twenty_workers_that_ask_at_once_each_gets_another_step(ledger: Ledger) -> None:
    """Also if all that waits is of one task, whose row each of them locks."""
    ledger.create(film(15))
    for _ in range(5):
        ledger.create(new_task())
    barrier = threading.Barrier(20)

    def claim(number: int) -> Claim | None:
        barrier.wait()
        return claim_next(ledger, f"w{number}")

    with ThreadPoolExecutor(20) as pool:
        claims = [claim for claim in pool.map(claim, range(20)) if claim]
    assert len({claim.step.step_id for claim in claims}) == 20


def test_a_task_that_somebody_moves_just_now_is_waited_for(ledger: Ledger) -> None:
    """PostgreSQL skips locked rows: that there is nothing else to do is no reason to go away."""
    task = new_task()
    ledger.create(task)
    if ledger.database.dialect.name != "postgresql":
        assert claim_next(ledger) is not None
        return
    with ThreadPoolExecutor(1) as pool, ledger.database.connect() as other:
        transaction = other.begin()
        other.execute(sa.text("SELECT * FROM tasks FOR UPDATE"))
        claimed = pool.submit(claim_next, ledger)
        time.sleep(0.3)
        assert not claimed.done()
        transaction.rollback()
        found = claimed.result(10)
    assert found is not None
    assert found.task.status == Status.STARTED
