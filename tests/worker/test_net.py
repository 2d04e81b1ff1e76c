"""The lane of steps that wait for other people's servers: a hundred attempts in one process, which fail alone."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
import sqlalchemy as sa

from core.config.settings import Settings
from core.db.tables import deliveries, tasks
from core.errors import Unavailable
from core.ledger.moves import Ledger
from core.queue import StepQueue
from core.status import Status
from core.storage import Storage
from core.task import Callback, NewStep, Step, Task
from harness.net_step import Hosted
from harness.provider import PRICE, Provider
from harness.servers import free_port, wait_until
from harness.stack import ROOT
from tests.conftest import expire_leases, new_task
from worker.attempt import Attempt
from worker.engines.host import EngineHost
from worker.metrics import WorkerMetrics
from worker.run.leases import Leases
from worker.run.net_lane import NET_KINDS, NetLane
from worker.run.presence import Presence
from worker.run.runner import WorkerContext, release_steps
from worker.steps.base import Made

SAID = ["harness may have been asked, and paid, for nothing: its answer was lost"]


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    provider = Provider()
    monkeypatch.setattr(Hosted, "url", provider.url, raising=False)
    monkeypatch.setitem(NET_KINDS, "hosted", Hosted)
    monkeypatch.setattr("core.ledger.retries.RETRY_PAUSES", (0.0,))
    yield provider
    provider.close()


@pytest.fixture
def lane(settings: Settings, provider: Provider, scratch: Path) -> Iterator[NetLane]:
    """In a worker of a queue that has no engine."""
    ledger, queue = Ledger(settings.resolved_database_url), StepQueue(settings)
    host = EngineHost(settings, "net")
    host.preload()
    presence = Presence(ledger, "net", host, None)
    storage = Storage(settings.resolved_storage_url)
    context = WorkerContext(settings, ledger, storage, queue, host, presence, WorkerMetrics(), scratch)
    presence.report()
    lane = NetLane(context)
    yield lane
    release_steps(context)
    lane.close()
    queue.close()
    ledger.close()


def ask(ledger: Ledger) -> str:
    task = new_task(steps=[NewStep("hosted", "net")])
    ledger.create(task)
    return task.task_id


def ended(lane: NetLane, task_id: str) -> Task:
    wait_until(lambda: lane.context.ledger.task(task_id).status.is_final, what="the end of the task")
    return lane.context.ledger.task(task_id)


def step_of(ledger: Ledger, task_id: str) -> Step:
    (step,) = ledger.task_with_steps(task_id)[1]
    return step


def test_a_step_is_submitted_polled_fetched_and_says_what_it_cost(lane: NetLane, provider: Provider) -> None:
    provider.work_seconds = 0.5
    task_id = ask(lane.context.ledger)
    lane.run_next()
    task = ended(lane, task_id)
    assert (task.status, task.error) == (Status.FINISHED, None)
    step = step_of(lane.context.ledger, task_id)
    (job,) = provider.jobs
    assert (task.receipt, step.cost) == ({"job": job}, PRICE)
    assert step.checkpoint == {"provider": "harness", "submitted": {"job": job}, "lost": 0}
    wait_until(lambda: not lane.attempts, what="its end")
    assert lane.context.running == []


def test_a_worker_without_engines_serves_its_queue(lane: NetLane) -> None:
    (worker,) = lane.context.ledger.workers()
    assert (worker.engines, worker.serves("net"), worker.serves("cpu")) == ({}, True, False)


def test_a_provider_that_refuses_or_breaks_off_costs_an_attempt(lane: NetLane, provider: Provider) -> None:
    provider.mode = "refuses"
    task_id = ask(lane.context.ledger)
    lane.run_next()
    wait_until(lambda: not lane.attempts, what="its end")
    assert step_of(lane.context.ledger, task_id).status == Status.QUEUED
    provider.mode = "works"
    lane.run_next()
    task = ended(lane, task_id)
    assert (task.status, task.warnings) == (Status.FINISHED, []), "nobody paid for what was refused"
    assert sum(provider.submits.values()) == 1


def test_a_provider_that_declines_for_good_fails_the_step_and_was_not_paid(lane: NetLane, provider: Provider) -> None:
    provider.mode = "declines"
    task_id = ask(lane.context.ledger)
    lane.run_next()
    task = ended(lane, task_id)
    assert task.error is not None
    assert (task.status, task.error.code, task.warnings) == (Status.FAILED, "engine_failed", [])


def test_a_provider_that_is_away_while_it_works_costs_nothing(lane: NetLane, provider: Provider) -> None:
    provider.work_seconds = 1.0
    task_id = ask(lane.context.ledger)
    lane.run_next()
    wait_until(lambda: "submitted" in (step_of(lane.context.ledger, task_id).checkpoint or {}), what="the handle")
    provider.mode = "is away"
    time.sleep(1.0)
    provider.mode = "works"
    assert ended(lane, task_id).status == Status.FINISHED
    assert step_of(lane.context.ledger, task_id).attempt == 1


def test_slots_of_a_provider_come_back_from_calls_that_hang(
    lane: NetLane, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Hosted, "at_once", 1)
    monkeypatch.setattr(Hosted, "time_limit", 0.5)
    monkeypatch.setattr("worker.run.net_lane.CHECK_POINT_SECONDS", 0.2)
    provider.mode = "hangs"
    first, second = ask(lane.context.ledger), ask(lane.context.ledger)
    lane.run_next()
    wait_until(lambda: step_of(lane.context.ledger, first).status == Status.QUEUED, what="it to be given up")
    provider.mode = "works"
    monkeypatch.setattr(Hosted, "time_limit", 60.0)
    for _ in range(2):
        lane.run_next()
    assert {ended(lane, task_id).status for task_id in (first, second)} == {Status.FINISHED}


def test_the_end_of_an_old_attempt_takes_nothing_from_a_newer_one(lane: NetLane) -> None:
    ledger, leases = lane.context.ledger, lane.leases
    task_id = ask(ledger)
    old = ledger.claim_next("net", "w", 60)
    assert old is not None
    assert ledger.give_back(old)
    new = ledger.claim_next("net", "w", 60)
    assert new is not None
    attempts = [Attempt(), Attempt()]
    for claim, attempt in zip((old, new), attempts, strict=True):
        leases.add(claim, attempt)
    wait_until(lambda: attempts[0].is_stopped, what="the old one to be told")
    leases.remove(old)
    before = lease_of(ledger, task_id)
    wait_until(lambda: lease_of(ledger, task_id) > before, what="another renewal")
    assert not attempts[1].is_stopped


def test_a_worker_that_closes_begins_nothing_not_even_what_waits_for_a_slot(
    lane: NetLane, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Hosted, "at_once", 1)
    provider.work_seconds = 4.0
    first, second, third = (ask(lane.context.ledger) for _ in range(3))
    lane.run_next()
    wait_until(lambda: "submitted" in (step_of(lane.context.ledger, first).checkpoint or {}), what="the handle")
    blocked = threading.Thread(target=lane.run_next)
    blocked.start()  # the provider has no slot for the second
    lane.close()
    blocked.join(5)
    lane.run_next()
    assert not blocked.is_alive()
    assert lane.context.ledger.task(first).status == Status.FINISHED
    for task_id in (second, third):
        assert step_of(lane.context.ledger, task_id).status == Status.QUEUED
    assert sum(provider.submits.values()) == 1


@pytest.mark.parametrize("mode", ["loses answers", "breaks"])
def test_what_may_have_been_paid_for_nothing_is_said(lane: NetLane, provider: Provider, mode: str) -> None:
    provider.mode = mode
    task_id = ask(lane.context.ledger)
    lane.run_next()
    wait_until(lambda: not lane.attempts, what="its end")
    assert step_of(lane.context.ledger, task_id).checkpoint == {
        "provider": "harness",
        "intended": True,
        "lost": 0,
    }
    provider.mode = "works"
    lane.run_next()
    task = ended(lane, task_id)
    assert task.warnings == SAID
    assert (step_of(lane.context.ledger, task_id).checkpoint or {})["lost"] == 1
    assert sum(provider.submits.values()) == 2


@pytest.mark.parametrize("dies", ["once the handle is recorded", "refused"])
def test_that_is_said_also_where_the_attempt_that_found_out_did_not_finish(
    lane: NetLane, provider: Provider, dies: str
) -> None:
    ledger, task_id = lane.context.ledger, ask(lane.context.ledger)
    provider.mode = "loses answers"
    lane.run_next()
    wait_until(lambda: not lane.attempts, what="its end")
    provider.mode, provider.work_seconds = ("refuses", 0.0) if dies == "refused" else ("works", 3600.0)
    lane.run_next()
    if dies != "refused":
        wait_until(lambda: "submitted" in (step_of(ledger, task_id).checkpoint or {}), what="the handle")
        release_steps(lane.context)
    wait_until(lambda: not lane.attempts, what="its end")
    provider.mode, provider.work_seconds = "works", 0.0
    lane.run_next()
    assert ended(lane, task_id).warnings == SAID


@pytest.mark.parametrize("end", ["canceled", "failed"])
def test_that_is_said_also_of_a_task_that_does_not_finish(lane: NetLane, provider: Provider, end: str) -> None:
    ledger, provider.mode = lane.context.ledger, "loses answers"
    task_id = ask(ledger)
    for _ in range(1 if end == "canceled" else lane.context.settings.max_attempts):
        lane.run_next()
        wait_until(lambda: not lane.attempts, what="its end")
    if end == "canceled":
        ledger.cancel(task_id)
    task = ledger.task(task_id)
    assert (str(task.status), task.warnings) == (end, SAID)


def test_what_is_fetched_again_is_counted_once(
    lane: NetLane, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch, tries = Hosted.fetch, []

    def fetch_twice(step: Hosted, handle: dict[str, Any]) -> Made:
        made = fetch(step, handle)
        tries.append(made)
        if len(tries) == 1:
            raise Unavailable("the last byte did not arrive")
        return made

    monkeypatch.setattr(Hosted, "fetch", fetch_twice)
    task_id = ask(lane.context.ledger)
    lane.run_next()
    assert ended(lane, task_id).status == Status.FINISHED
    with lane.context.ledger.database.connect() as connection:
        stored = connection.execute(sa.select(tasks.c.stored_bytes)).scalar_one()
    assert len(tries) == 2
    assert stored == tries[1].artifacts[0].bytes


def test_a_provider_that_hangs_ends_one_attempt_and_never_the_process(
    lane: NetLane, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Hosted, "time_limit", 0.5)
    monkeypatch.setattr("worker.run.net_lane.CHECK_POINT_SECONDS", 0.5)
    provider.mode = "hangs"
    hangs = ask(lane.context.ledger)
    lane.run_next()
    wait_until(lambda: step_of(lane.context.ledger, hangs).status == Status.QUEUED, what="the step to be given up")
    wait_until(lambda: lane.context.running == [], what="the attempt to be left behind")
    assert lane.abandoned == 1
    provider.mode = "works"
    monkeypatch.setattr(Hosted, "time_limit", 60.0)
    lane.run_next()
    assert ended(lane, hangs).status == Status.FINISHED


def test_no_more_than_a_provider_has_slots_are_asked_at_once(
    lane: NetLane, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Hosted, "at_once", 3)
    provider.work_seconds = 0.3
    asked = [ask(lane.context.ledger) for _ in range(12)]
    for _ in asked:
        lane.run_next()
    assert {ended(lane, task_id).status for task_id in asked} == {Status.FINISHED}
    assert 1 <= provider.most_at_once <= 3


def test_a_provider_without_slots_keeps_only_its_own_waiting(
    lane: NetLane, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Other(Hosted):
        provider = "other"

    monkeypatch.setitem(NET_KINDS, "other", Other)
    monkeypatch.setattr(Hosted, "at_once", 1)
    provider.work_seconds = 3600
    ledger, slow = lane.context.ledger, [ask(lane.context.ledger) for _ in range(3)]
    lane.run_next()
    ledger.create(other := new_task(steps=[NewStep("other", "net")]))
    lane.run_next()
    wait_until(lambda: len(provider.jobs) == 2, what="a job of each")
    assert step_of(ledger, other.task_id).status == Status.STARTED
    assert [str(step_of(ledger, task_id).status) for task_id in slow] == ["started", "queued", "queued"]


def test_a_kind_that_a_newer_version_has_waits_for_its_workers(lane: NetLane) -> None:
    ledger = lane.context.ledger
    ledger.create(newer := new_task(steps=[NewStep("of a newer version", "net")]))
    lane.run_next()
    assert step_of(ledger, newer.task_id).status == Status.QUEUED


def test_a_call_that_comes_back_counts_once_and_makes_room(
    lane: NetLane, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    comes_back = threading.Event()

    def hang(_: Hosted) -> dict[str, Any]:
        comes_back.wait(30)
        raise Unavailable("too late")

    monkeypatch.setattr("worker.run.net_lane.CHECK_POINT_SECONDS", 0.2)
    monkeypatch.setattr(Hosted, "time_limit", 0.5)
    monkeypatch.setattr(Hosted, "submit", hang)
    ask(lane.context.ledger)
    lane.run_next()
    wait_until(lambda: lane.abandoned == 1 and not lane.attempts, what="it to be left behind")
    comes_back.set()
    wait_until(lambda: lane.abandoned == 0, what="its return")
    (counted,) = [
        each.value for each in lane.context.metrics.steps.collect()[0].samples if each.name.endswith("_total")
    ]
    assert counted == 1


def test_a_canceled_step_is_polled_no_more(lane: NetLane, provider: Provider) -> None:
    provider.work_seconds = 3600
    task_id = ask(lane.context.ledger)
    lane.run_next()
    wait_until(lambda: provider.jobs, what="the job")
    lane.context.ledger.cancel(task_id)
    wait_until(lambda: not lane.attempts, what="its end")
    assert lane.context.ledger.task(task_id).status == Status.CANCELED


def test_a_worker_that_drains_hands_its_attempts_over(lane: NetLane, provider: Provider) -> None:
    provider.work_seconds = 1.0
    task_id = ask(lane.context.ledger)
    lane.run_next()
    wait_until(lambda: provider.jobs, what="the job")
    wait_until(lambda: "submitted" in (step_of(lane.context.ledger, task_id).checkpoint or {}), what="the handle")
    release_steps(lane.context)
    wait_until(lambda: not lane.attempts, what="its end")
    step = step_of(lane.context.ledger, task_id)
    assert (step.status, step.attempt) == (Status.QUEUED, 1)
    lane.run_next()
    assert ended(lane, task_id).status == Status.FINISHED
    assert sum(provider.submits.values()) == 1


def test_all_leases_are_renewed_by_one_statement_with_how_far_each_is(ledger: Ledger) -> None:
    """On both databases."""
    leases = Leases(ledger, 60)
    leases.close()  # it renews below, and not by itself
    callback = Callback("https://example.org", ["task.progress"])
    asked = [new_task(steps=[NewStep("hosted", "net")], callback=callback) for _ in range(20)]
    with ExitStack() as phases:
        for number, task in enumerate(asked):
            ((step_id, queue),) = ledger.create(task)
            claim, attempt = ledger.claim_next(queue, "w", 1), Attempt({"poll": 1.0})
            assert claim is not None
            assert claim.step.step_id == step_id
            leases.add(claim, attempt)
            phases.enter_context(attempt.phase("poll"))
            attempt.advance(number, 100)
        before, statements, commits = lease_of(ledger, asked[0].task_id), [], []
        listeners = (
            ("before_cursor_execute", lambda *given: statements.append(given[2])),
            ("commit", lambda _: commits.append(1)),
        )
        for name, note in listeners:
            sa.event.listen(ledger.database, name, note)
        leases._renew()
        assert len([each for each in statements if "SET lease_until" in each]) == 1
        assert len(commits) == 1
        statements.clear()
        leases._renew()
        assert [each for each in statements if "progress" in each] == [], "none has got further"
        for name, note in listeners:
            sa.event.remove(ledger.database, name, note)
    assert [step_of(ledger, task.task_id).progress for task in asked] == list(range(20))
    assert {step_of(ledger, task.task_id).phase for task in asked} == {"poll"}
    assert lease_of(ledger, asked[0].task_id) > before + 30
    with ledger.database.connect() as connection:
        told = connection.execute(sa.select(deliveries.c.task_id)).scalars().all()
    assert sorted(told) == sorted(task.task_id for task in asked[10:]), "those that passed ten percent"


def lease_of(ledger: Ledger, task_id: str) -> float:
    step_id = step_of(ledger, task_id).step_id
    return next(lease.lease_until for lease in ledger.held_leases() if lease.step_id == step_id)


# As a process


def start(settings: Settings, provider: Provider, folder: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {
        "DATA_DIR": str(settings.data_dir),
        "REDIS_PORT": str(settings.redis_port),
        "WORKER_METRICS_PORT": str(free_port()),
        "LEASE_SECONDS": "3",
        "LOG_FORMAT": "console",
    }
    command = [sys.executable, "-m", "harness.net_step", provider.url, "100", "--queue", "net"]
    with (folder / "worker.log").open("ab") as log:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)


def test_one_worker_holds_a_hundred_and_another_polls_on_when_it_is_killed(
    settings: Settings, provider: Provider, tmp_path: Path
) -> None:
    ledger, queue = Ledger(settings.resolved_database_url), StepQueue(settings)
    provider.work_seconds = 3600
    asked = [ask(ledger) for _ in range(100)]
    for task_id in asked:
        queue.wake(step_of(ledger, task_id).step_id, "net")
    first = start(settings, provider, tmp_path)
    second = None
    try:
        wait_until(lambda: len(ledger.held_leases()) == 100, 60, "a hundred attempts")
        wait_until(
            lambda: all("submitted" in (step_of(ledger, each).checkpoint or {}) for each in asked), 60, "handles"
        )
        assert psutil.Process(first.pid).memory_info().rss < 300e6
        time.sleep(4)  # longer than a lease
        assert expire_leases(ledger) == [], "all of them are renewed"
        first.send_signal(signal.SIGKILL)
        first.wait()
        time.sleep(3.5)
        assert len(expire_leases(ledger)) == 100
        provider.work_seconds = 0.0
        second = start(settings, provider, tmp_path)
        for task_id in asked:
            queue.wake(step_of(ledger, task_id).step_id, "net")
        wait_until(lambda: all(ledger.task(each).status.is_final for each in asked), 90, "the end of all")
        assert {ledger.task(each).status for each in asked} == {Status.FINISHED}
        assert set(provider.submits.values()) == {1}, "each is polled on by its handle"
        assert [each for each in asked if ledger.task(each).warnings] == []
        second.send_signal(signal.SIGTERM)
        assert second.wait(30) == 0
    finally:
        for process in (first, second):
            if process and process.poll() is None:
                process.kill()
                process.wait()
        queue.close()
        ledger.close()
