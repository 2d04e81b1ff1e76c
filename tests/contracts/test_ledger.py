"""The ledger's contract, on SQLite and on PostgreSQL."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext

from core.db.tables import attempts, events, metadata
from core.errors import IdempotencyMismatch, QueueFull, TaskExists, TaskNotFound
from core.ledger.durations import StepProfile
from core.ledger.moves import Ledger
from core.ledger.reads import Reader, page_of_tasks
from core.ledger.workers import Worker
from core.status import Status
from core.task import Artifact, Bounds, Claim, ErrorInfo, IdempotencyKey, NewStep, ReadyStep
from tests.conftest import artifacts_at, expire_leases, new_task

MIGRATIONS = Path(__file__).parents[2] / "core" / "db" / "migrations"
BROKEN = ErrorInfo("engine_failed", "it broke")


def begin(ledger: Ledger, lease: float = 60.0) -> Claim:
    """A task whose only step is claimed."""
    ((step_id, _),) = ledger.create(new_task())
    claim = ledger.claim(step_id, "w1", lease)
    assert claim is not None
    return claim


def finish(ledger: Ledger, claim: Claim) -> list[ReadyStep] | None:
    return ledger.finish(claim, artifacts_at(video="k"), {"seed": 1}, {"render": 0.3})


def test_migrations_make_exactly_the_tables_that_the_code_uses(empty_database_url: str) -> None:
    ledger = Ledger(empty_database_url)
    ledger.migrate()
    with ledger.database.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    ledger.close()


def test_migrating_from_many_processes_at_once_is_safe(empty_database_url: str) -> None:
    ledgers = [Ledger(empty_database_url) for _ in range(4)]
    with ThreadPoolExecutor() as pool:
        list(pool.map(Ledger.migrate, ledgers))
    with ledgers[0].database.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    for ledger in ledgers:
        ledger.close()


def test_a_new_task_is_queued_and_its_step_can_be_claimed_once(ledger: Ledger) -> None:
    new = new_task()
    ((step_id, _),) = ledger.create(new)
    assert ledger.task(new.task_id).status == Status.QUEUED

    claim = ledger.claim(step_id, "w1", 60)
    assert claim is not None
    assert claim.step.attempt == 1
    assert ledger.task(new.task_id).status == Status.STARTED
    assert ledger.claim(step_id, "w2", 60) is None


def test_of_twenty_workers_that_claim_at_once_one_gets_the_step(ledger: Ledger) -> None:
    ((step_id, _),) = ledger.create(new_task())
    barrier = threading.Barrier(20)

    def claim(number: int) -> Claim | None:
        barrier.wait()
        return ledger.claim(step_id, f"w{number}", 60)

    with ThreadPoolExecutor(20) as pool:
        claims = [claim for claim in pool.map(claim, range(20)) if claim]
    assert len(claims) == 1


def test_finishing_the_only_step_finishes_the_task(ledger: Ledger) -> None:
    claim = begin(ledger)
    assert finish(ledger, claim) == []
    task = ledger.task(claim.task.task_id)
    assert task.status == Status.FINISHED
    assert ledger.artifacts(task.task_id) == {"video": Artifact("video", "k", 1, "0" * 64)}
    assert task.receipt == {"seed": 1}
    assert task.created_at <= task.started_at <= task.finished_at


def test_renewing_carries_the_progress(ledger: Ledger) -> None:
    claim = begin(ledger)
    assert ledger.renew(claim, 60, progress=40, phase="denoise")
    _, (step,) = ledger.task_with_steps(claim.task.task_id)
    assert (step.progress, step.phase) == (40, "denoise")


def test_a_lease_that_ran_out_is_taken_over_after_a_pause(ledger: Ledger) -> None:
    claim = begin(ledger, lease=-1)
    assert expire_leases(ledger, max_attempts=3) == [claim.step.step_id]
    _, (step,) = ledger.task_with_steps(claim.task.task_id)
    assert step.status == Status.QUEUED
    assert ledger.claim(step.step_id, "w2", 60) is None, "it rests before the next attempt"


def test_a_lease_that_holds_is_left_alone(ledger: Ledger) -> None:
    begin(ledger)
    assert expire_leases(ledger, max_attempts=3) == []


def test_a_zombie_attempt_cannot_write(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.ledger.retries.RETRY_PAUSES", (0.0,))
    zombie = begin(ledger, lease=-1)
    expire_leases(ledger, max_attempts=3)
    heir = ledger.claim(zombie.step.step_id, "w2", 60)
    assert heir is not None
    assert heir.step.attempt == 2

    assert not ledger.renew(zombie, 60, 50, None)
    assert finish(ledger, zombie) is None
    assert not ledger.fail(zombie, BROKEN)
    assert not ledger.give_back(zombie)
    assert ledger.task(zombie.task.task_id).status == Status.STARTED
    assert finish(ledger, heir) == []


def test_a_step_that_loses_every_attempt_fails_its_task(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.ledger.retries.RETRY_PAUSES", (0.0,))
    ((step_id, _),) = ledger.create(new := new_task())
    for _ in range(3):
        assert ledger.claim(step_id, "w", -1)
        expire_leases(ledger, max_attempts=3)
    task = ledger.task(new.task_id)
    assert task.status == Status.FAILED
    assert task.error is not None
    assert task.error.code == "attempts_exhausted"


def test_a_step_given_back_uses_up_no_attempt(ledger: Ledger) -> None:
    claim = begin(ledger)
    for _ in range(5):
        assert ledger.give_back(claim)
        claim = ledger.claim(claim.step.step_id, "w", 60)
        assert claim is not None
    ledger.renew(claim, -1, 0, None)
    expire_leases(ledger, max_attempts=2)
    assert ledger.task(claim.task.task_id).status == Status.STARTED, "one attempt was lost, one is left"


def test_a_failed_step_fails_its_task_with_the_same_error(ledger: Ledger) -> None:
    claim = begin(ledger)
    assert ledger.fail(claim, BROKEN)
    task = ledger.task(claim.task.task_id)
    assert (task.status, task.error) == (Status.FAILED, BROKEN)


@pytest.mark.parametrize("when", ["queued", "started", "finished", "failed", "canceled"])
def test_cancel_ends_a_task_that_runs_and_leaves_one_that_ended(ledger: Ledger, when: str) -> None:
    ((step_id, _),) = ledger.create(new := new_task())
    claim = None if when == "queued" else ledger.claim(step_id, "w", 60)
    if when == "finished":
        finish(ledger, claim)
    elif when == "failed":
        ledger.fail(claim, BROKEN)
    elif when == "canceled":
        ledger.cancel(new.task_id)
    expected = when if when in ("finished", "failed") else "canceled"
    assert ledger.cancel(new.task_id).status == expected
    if claim and expected == "canceled":
        assert not ledger.renew(claim, 60, 50, None)
        assert finish(ledger, claim) is None
    assert ledger.task(new.task_id).status == expected


def test_canceling_and_finishing_at_once_has_one_winner(ledger: Ledger) -> None:
    for _ in range(20):
        claim = begin(ledger)
        with ThreadPoolExecutor(2) as pool:
            done = pool.submit(finish, ledger, claim)
            canceled = pool.submit(ledger.cancel, claim.task.task_id)
        won = done.result() is not None
        assert canceled.result().status == (Status.FINISHED if won else Status.CANCELED)
        assert kinds(ledger, claim.task.task_id)[2:] == ["finished" if won else "canceled"]


def kinds(ledger: Ledger, task_id: str) -> list[str]:
    with ledger.database.connect() as connection:
        query = sa.select(events.c.kind).where(events.c.task_id == task_id).order_by(events.c.event_id)
        return list(connection.execute(query).scalars())


def test_every_move_writes_its_event_once(ledger: Ledger) -> None:
    claim = begin(ledger)
    finish(ledger, claim)
    ledger.cancel(claim.task.task_id)
    assert kinds(ledger, claim.task.task_id) == ["queued", "started", "finished"]


def test_steps_become_ready_when_all_they_need_is_finished(ledger: Ledger) -> None:
    fan = [NewStep("clip", "cpu"), NewStep("clip", "cpu"), NewStep("join", "cpu", needs=("0", "1"))]
    (first, _), (second, _) = ledger.create(new := new_task(steps=fan))
    _, (_, _, join) = ledger.task_with_steps(new.task_id)
    assert ledger.claim(join.step_id, "w", 60) is None

    assert finish(ledger, ledger.claim(first, "w", 60)) == []
    assert finish(ledger, ledger.claim(second, "w", 60)) == [(join.step_id, "cpu")]
    assert ledger.task(new.task_id).status == Status.STARTED
    assert finish(ledger, ledger.claim(join.step_id, "w", 60)) == []
    assert ledger.task(new.task_id).status == Status.FINISHED


def test_a_failed_step_stops_the_others_of_its_task(ledger: Ledger) -> None:
    (first, _), (second, _) = ledger.create(new_task(steps=[NewStep("clip", "cpu"), NewStep("clip", "cpu")]))
    running = ledger.claim(second, "w", 60)
    ledger.fail(ledger.claim(first, "w", 60), BROKEN)
    assert not ledger.renew(running, 60, 1, None)


def test_the_ledger_keeps_each_attempt(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.ledger.retries.RETRY_PAUSES", (0.0,))
    lost = begin(ledger, lease=-1)
    expire_leases(ledger, max_attempts=3)
    finish(ledger, ledger.claim(lost.step.step_id, "w2", 60))
    with ledger.database.connect() as connection:
        rows = connection.execute(sa.select(attempts.c.attempt, attempts.c.worker_id, attempts.c.outcome)).all()
    assert sorted(rows) == [(1, "w1", "lost"), (2, "w2", "finished")]


def test_an_unknown_task_is_not_found(ledger: Ledger) -> None:
    for unknown in ("nope", "0" * 32, "a\0b", "0" * 31 + "\0"):
        with pytest.raises(TaskNotFound):
            ledger.task(unknown)
        with pytest.raises(TaskNotFound):
            ledger.cancel(unknown)
    assert ledger.claim("nope", "w", 60) is None


def test_pages_are_newest_first_and_do_not_overlap(ledger: Ledger) -> None:
    made = []
    for _ in range(7):
        ledger.create(new := new_task())
        made.append(new.task_id)
    pages, after = [], None
    while page := ledger.tasks(status=None, after=after, limit=3):
        pages += [task.task_id for task in page]
        after = page[-1].task_id
    assert pages == made[::-1]
    ledger.cancel(made[3])
    assert [task.task_id for task in ledger.tasks(status=Status.CANCELED, after=None, limit=3)] == [made[3]]


@pytest.mark.parametrize("status", [None, Status.QUEUED])
def test_a_page_of_a_hundred_thousand_tasks_is_read_from_an_index(ledger: Ledger, status: Status | None) -> None:
    on_sqlite = ledger.database.dialect.name == "sqlite"
    fill, explain = (FILL_SQLITE, "EXPLAIN QUERY PLAN ") if on_sqlite else (FILL_POSTGRESQL, "EXPLAIN ")
    with ledger.database.begin() as connection:
        connection.execute(sa.text(fill))
        connection.execute(sa.text("ANALYZE"))
        query = page_of_tasks(None, status, after=f"{50_000:032d}", limit=20)
        literal = query.compile(ledger.database, compile_kwargs={"literal_binds": True})
        plan = str(connection.execute(sa.text(explain + str(literal))).all()).lower()
    assert "using index" in plan or "index scan" in plan
    assert not any(word in plan for word in ("seq scan", "scan tasks", "sort key", "temp b-tree"))
    assert [task.task_id for task in ledger.tasks(status=status, after=f"{50_000:032d}", limit=2)] == [
        f"{49_999:032d}",
        f"{49_998:032d}",
    ]


FILL = """INSERT INTO tasks (task_id, status, engine, params, warnings, created_at)
    SELECT {id}, 'queued', 'preview', '{{}}', '[]', 0 FROM {numbers}"""
FILL_SQLITE = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000) " + FILL.format(
    id="printf('%032d', i)", numbers="n"
)
FILL_POSTGRESQL = FILL.format(id="lpad(i::text, 32, '0')", numbers="generate_series(1, 100000) AS n(i)")


def test_what_waits_is_counted_by_queue(ledger: Ledger) -> None:
    for _ in range(3):
        ledger.create(new_task())
    begin(ledger)
    count, oldest = ledger.waiting()["cpu"]
    assert count == 3
    assert oldest >= 0


def test_steps_that_wait_can_be_woken_again(ledger: Ledger) -> None:
    ((step_id, _),) = ledger.create(new_task())
    begin(ledger)
    assert list(ledger.steps_to_wake(older_than=0)) == [(step_id, "cpu")]
    assert list(ledger.steps_to_wake(older_than=60)) == []


def test_steps_of_a_queue_that_nobody_serves_hold_up_no_other_queue(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.ledger.reads.WOKEN_AT_ONCE", 3)
    for _ in range(5):
        ledger.create(new_task(steps=[NewStep("clip", "gpu")]))
    ((step_id, _),) = ledger.create(new_task())
    woken = ledger.steps_to_wake(older_than=0)
    assert (step_id, "cpu") in woken
    assert len(woken) == 4


def test_only_the_sizes_that_are_asked_for_most_are_remembered(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.ledger.durations.MOST_SIZES", 2)
    for size, times in (("rare", 1), ("common", 3), ("usual", 2)):
        for _ in range(times):
            ((step_id, _),) = ledger.create(
                new_task(steps=[NewStep("clip", "cpu", size=size, work=float(times), engine="preview")])
            )
            claim = ledger.claim(step_id, "w", 60)
            assert claim is not None
            finish(ledger, replace(claim, started_at=claim.started_at - 1000 * times))
    durations = ledger.step_durations()
    assert durations.of(StepProfile("preview", "clip", "rare", 1.0)).seconds == pytest.approx(1000, rel=0.02)
    ledger.delete_rare_durations()
    durations = ledger.step_durations()
    assert len(durations) == 2
    assert durations.of(StepProfile("preview", "clip", "common", 3.0)).seconds == pytest.approx(3000, rel=0.02)
    by_work = durations.of(StepProfile("preview", "clip", "rare", 1.0))
    assert by_work.seconds == pytest.approx(1000, rel=0.02)
    assert durations.of(StepProfile("svd-xt", "clip", "rare", 1.0)) is None


def test_the_two_stages_of_a_step_are_remembered_apart(ledger: Ledger) -> None:
    ((step_id, _),) = ledger.create(new_task(steps=[NewStep("clip", "cpu", size="small", work=1.0, engine="preview")]))
    claim = ledger.claim(step_id, "w", 60)
    assert claim is not None
    begun_before = replace(claim, started_at=claim.started_at - 1000)
    ledger.finish(begun_before, {}, {}, {}, render_seconds=500, waited_seconds=300)
    duration = ledger.step_durations().of(StepProfile("preview", "clip", "small", 1.0))
    assert (duration.render, duration.finalize) == (500, pytest.approx(200, rel=0.05))
    larger = ledger.step_durations().of(StepProfile("preview", "clip", "large", 2.0))
    assert (larger.render, larger.finalize) == (1000, pytest.approx(400, rel=0.05)), "by its work"


def test_counters_survive_a_restart_and_add_up(ledger: Ledger, database_url: str) -> None:
    for _ in range(3):
        finish(ledger, begin(ledger))
    ledger.cancel(begin(ledger).task.task_id)
    again = Reader(database_url)
    assert again.counters()["tasks_created", "preview"] == 4
    assert again.counters()["tasks_finished", "preview"] == 3
    assert again.counters()["tasks_canceled", "preview"] == 1
    rendering = again.histograms()["phase_seconds:render", "preview"]
    assert rendering.counts["0.5"] == 3
    assert rendering.total == pytest.approx(0.9)
    again.close()


def test_a_worker_that_reports_is_alive_and_one_that_left_is_known_for_a_day(ledger: Ledger) -> None:
    engines = {"preview": {"ready": True, "reason": None}}
    worker = Worker("w1", "cpu", "here", "this machine", 1, "cpu", engines, None, 9101, 0.0, 0.0, alive=True)
    ledger.report_worker(worker)
    ledger.report_worker(worker)
    (seen,) = ledger.workers()
    assert seen.alive
    assert seen.engines == engines
    ledger.sign_off_worker("w1")
    (left,) = ledger.workers()
    assert not left.alive
    assert left.engines == engines


def test_ended_tasks_expire_after_their_retention(ledger: Ledger) -> None:
    claim = begin(ledger)
    finish(ledger, claim)
    begin(ledger)
    assert ledger.expired_tasks(3600) == []
    assert ledger.expired_tasks(-1) == [claim.task.task_id]
    ledger.mark_expired(claim.task.task_id)
    assert ledger.expired_tasks(-1) == []
    assert ledger.task(claim.task.task_id).expired_at is not None


def test_of_twenty_requests_with_one_key_one_makes_a_task(ledger: Ledger) -> None:
    key = IdempotencyKey("", "k", "f" * 64)
    barrier = threading.Barrier(20)

    def create(_: int) -> str:
        barrier.wait()
        new = new_task()
        try:
            ledger.create(new, key)
        except TaskExists as made:
            return made.task_id
        return new.task_id

    with ThreadPoolExecutor(20) as pool:
        made = set(pool.map(create, range(20)))
    assert len(made) == 1
    assert [task.task_id for task in ledger.tasks(status=None, after=None, limit=9)] == list(made)
    with pytest.raises(IdempotencyMismatch):
        ledger.create(new_task(), replace(key, fingerprint="0" * 64))
    ledger.create(new_task(), replace(key, owner="another"))


def test_a_key_is_forgotten_after_a_day(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    key = IdempotencyKey("", "k", "f" * 64)
    ledger.create(new_task(), key)
    ledger.forget_old_keys()
    with pytest.raises(TaskExists):
        ledger.create(new_task(), key)
    monkeypatch.setattr("core.ledger.moves.KEY_SECONDS", -1.0)
    ledger.forget_old_keys()
    ledger.create(new_task(), key)


def test_no_more_tasks_wait_than_may_however_many_come_at_once(ledger: Ledger) -> None:
    bounds = Bounds(waiting=5, waiting_per_queue=3)

    def create(queue: str) -> bool:
        try:
            ledger.create(new_task(steps=[NewStep("clip", queue)]), None, bounds)
        except QueueFull:
            return False
        return True

    with ThreadPoolExecutor(10) as pool:
        assert sum(pool.map(create, ["cpu"] * 10)) == 3
        assert sum(pool.map(create, ["gpu"] * 10)) == 2
    assert len(ledger.tasks(status=None, after=None, limit=50)) == 5


def work_off(ledger: Ledger, ready: list[ReadyStep], crash_every: int = 0) -> dict[str, int]:
    """Work on what is ready until nothing is; every `crash_every`th attempt dies. Returns the attempts of each step."""
    tried: Counter[str] = Counter()
    while ready:
        step_id, _ = ready.pop()
        claim = ledger.claim(step_id, "w", 60)
        assert claim is not None
        tried[step_id] += 1
        if crash_every and sum(tried.values()) % crash_every == 0:
            ledger.renew(claim, -1, 0, None)
            expire_leases(ledger, max_attempts=1000)
            ready.append(ReadyStep(step_id, "cpu"))
        else:
            ready += finish(ledger, claim) or []
    return tried


def test_a_graph_of_thirty_steps_runs_each_step_once_whatever_dies(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.ledger.retries.RETRY_PAUSES", (0.0,))
    # Fourteen clips, each with its sound, joined, then finished off: fan-out, fan-in, a chain.
    clips = [NewStep("clip", "cpu") for _ in range(14)]
    sounds = [NewStep("sound", "cpu", needs=(str(number),)) for number in range(14)]
    graph = [
        *clips,
        *sounds,
        NewStep("join", "cpu", needs=tuple(map(str, range(28)))),
        NewStep("publish", "cpu", needs=("28",)),
    ]
    ready = ledger.create(new := new_task(steps=graph))
    assert len(ready) == 14
    tried = work_off(ledger, ready, crash_every=3)
    assert ledger.task(new.task_id).status == Status.FINISHED
    assert len(tried) == 30
    with ledger.database.connect() as connection:
        finished = sa.select(attempts.c.step_id).where(attempts.c.outcome == "finished")
        assert sorted(connection.execute(finished).scalars()) == sorted(tried), "each step finished exactly once"


def test_a_step_may_add_the_steps_that_it_found_to_be_needed(ledger: Ledger) -> None:
    ((planner, _),) = ledger.create(new := new_task(steps=[NewStep("plan", "cpu", reserved_weight=9.0)]))
    claim = ledger.claim(planner, "w", 60)
    assert claim is not None
    clips = [NewStep("clip", "cpu", needs=("0",)) for _ in range(3)]
    join = NewStep("join", "gpu", needs=("1", "2", "3"))
    ready = ledger.finish(claim, {}, {}, {}, more=[*clips, join])
    assert ready is not None
    assert [queue for _, queue in ready] == ["cpu"] * 3
    assert ledger.task(new.task_id).status == Status.STARTED
    tried = work_off(ledger, ready)
    assert len(tried) == 4
    assert ledger.task(new.task_id).status == Status.FINISHED


def test_steps_added_by_an_attempt_that_was_taken_over_are_not_there(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.ledger.retries.RETRY_PAUSES", (0.0,))
    zombie = begin(ledger, lease=-1)
    expire_leases(ledger, max_attempts=3)
    assert ledger.finish(zombie, {}, {}, {}, more=[NewStep("clip", "cpu")]) is None
    _, found = ledger.task_with_steps(zombie.task.task_id)
    assert len(found) == 1


def test_an_attempt_is_in_vain_once_it_can_finish_no_more(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.ledger.retries.RETRY_PAUSES", (0.0,))
    zombie = begin(ledger, lease=-1)
    assert not ledger.is_in_vain(zombie)
    expire_leases(ledger)
    heir = ledger.claim(zombie.step.step_id, "w2", 60)
    assert heir is not None
    assert (ledger.is_in_vain(zombie), ledger.is_in_vain(heir)) == (True, False)
    finish(ledger, heir)
    assert (ledger.is_in_vain(zombie), ledger.is_in_vain(heir)) == (True, False)
    canceled = begin(ledger)
    ledger.cancel(canceled.task.task_id)
    assert ledger.is_in_vain(canceled)


def test_of_the_deleted_tasks_those_that_ended_lately_are_known(ledger: Ledger) -> None:
    claims = [begin(ledger) for _ in range(3)]
    for claim in claims[:2]:
        finish(ledger, claim)
        ledger.mark_expired(claim.task.task_id)
    finish(ledger, claims[2])
    old, new = (claim.task.task_id for claim in claims[:2])
    with ledger.database.begin() as tx:
        tx.exec_driver_sql(f"UPDATE tasks SET finished_at = finished_at - 3601 WHERE task_id = '{old}'")
    assert ledger.just_expired(3600) == [new]


def test_what_a_step_warned_of_stays_when_others_follow(ledger: Ledger) -> None:
    both = [NewStep("clip", "cpu", {}), NewStep("smooth", "cpu", {}, needs=("0",))]
    ((first, _),) = ledger.create(task := replace(new_task(), steps=both, warnings=["accepted"]))
    claim = ledger.claim(first, "w1", 60)
    assert claim is not None
    ready = ledger.finish(claim, {}, {}, {}, warnings=["halved"])
    assert ready
    last = ledger.claim(ready[0].step_id, "w1", 60)
    assert last is not None
    ledger.finish(last, {}, {}, {}, warnings=["late"])
    assert ledger.task(task.task_id).warnings == ["accepted", "halved", "late"]


def test_a_lease_that_was_renewed_is_not_taken_over(ledger: Ledger) -> None:
    claim = begin(ledger, lease=-1)
    (shown,) = ledger.held_leases()
    assert ledger.renew(claim, 60, progress=10, phase="load")
    assert not ledger.take_over(shown, max_attempts=3)
    assert finish(ledger, claim) == []


def test_a_step_that_waits_again_is_as_far_as_it_was_and_in_no_phase(ledger: Ledger) -> None:
    """Nobody sees a task fall back."""
    claim = begin(ledger)
    ledger.renew(claim, -1, progress=40, phase="denoise")
    expire_leases(ledger)
    _, (step,) = ledger.task_with_steps(claim.task.task_id)
    assert (step.status, step.progress, step.phase, step.worker_id) == (Status.QUEUED, 40, None, None)


def test_the_pauses_between_attempts_grow(ledger: Ledger) -> None:
    claim, pauses = begin(ledger), []
    for _ in range(4):
        assert ledger.lose(claim, BROKEN, max_attempts=9)
        (rest,) = ledger.rests()
        pauses.append(rest.seconds)
        assert ledger.claim(claim.step.step_id, "w", 60) is None
        ledger.end_rest(rest)
        claim = ledger.claim(claim.step.step_id, "w", 60) or pytest.fail("it rests still")
    assert pauses == [1, 5, 30, 30]


def test_a_step_rests_for_as_long_as_it_was_told_to(ledger: Ledger) -> None:
    """Which may be longer than any pause of ours: a server may ask for minutes."""
    claim = begin(ledger)
    assert ledger.lose(claim, BROKEN, max_attempts=9, rest_seconds=300)
    (rest,) = ledger.rests()
    assert (rest.step_id, rest.attempt, rest.seconds) == (claim.step.step_id, 1, 300)
    assert ledger.steps_to_wake(0) == []
    ledger.note_rest(rest, 200)
    ledger.note_rest(rest, 250)  # by a keeper that knows it later
    assert [each.seconds for each in ledger.rests()] == [200]
    ledger.end_rest(rest)
    assert ledger.steps_to_wake(0) == [(claim.step.step_id, "cpu")]
    heir = ledger.claim(claim.step.step_id, "w", 60) or pytest.fail("it rests still")
    assert ledger.give_back(heir, rest_seconds=0.5)
    ledger.end_rest(rest)  # late, and of another attempt
    assert [each.attempt for each in ledger.rests()] == [2]


def test_each_migration_keeps_the_rows_of_the_tables_before_it(empty_database_url: str) -> None:
    ledger, task_id = Ledger(empty_database_url), "1" * 32
    for script in sorted((MIGRATIONS / "versions").glob("0*.py")):
        with ledger.database.begin() as connection:
            config = Config()
            config.set_main_option("script_location", str(MIGRATIONS))
            config.attributes["connection"] = connection
            command.upgrade(config, script.name[:4])
            fill_empty_tables(connection)
    task, (step,) = ledger.task_with_steps(task_id)
    assert (task.owner, task.callback_url, task.callback_events, task.dialect) == ("", None, [], "kinora")
    assert (step.size, step.work, step.receipt) == ("", 0.0, None)
    duration = ledger.step_durations().of(StepProfile(task.engine, step.kind, "1" * 32, 1.0))
    assert duration is not None
    assert (duration.render, duration.finalize) == (1.0, 0.0), "a step kept its worker's engine all the time"
    assert [key.stored_bytes for key in ledger.keys.all()] == [0]
    ledger.close()


def fill_empty_tables(connection: sa.Connection) -> None:
    """With one row each, of which all that must be said is 1 and nothing else is said."""
    there = sa.MetaData()
    there.reflect(connection)
    for table in there.sorted_tables:
        if table.name != "alembic_version" and not connection.execute(sa.select(table)).first():
            needed = [column for column in table.columns if not (column.nullable or column.server_default)]
            connection.execute(table.insert().values({column.name: one(column) for column in needed}))


def one(column: sa.Column[Any]) -> Any:
    if column.name == "status":
        return Status.QUEUED
    if column.name in ("verb", "kind"):
        return "clip"
    if isinstance(column.type, sa.JSON):
        return {}
    return "1" * min(32, column.type.length or 32) if isinstance(column.type, sa.String) else 1


def test_a_step_that_keeps_its_worker_to_its_end_only_renders(ledger: Ledger) -> None:
    claim = begin(ledger)
    ledger.finish(replace(claim, started_at=claim.started_at - 100), {}, {}, {})
    duration = ledger.step_durations().of(StepProfile("preview", "clip", "", 0.0))
    assert duration is not None
    assert (duration.render, duration.finalize) == (duration.seconds, 0.0)
