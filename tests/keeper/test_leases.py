"""Which attempts the keeper believes dead; also when the database's clock jumps."""

import time
from collections.abc import Callable

import pytest

from core.status import Status
from core.task import HeldLease
from keeper.leases import SILENCE_SECONDS, Leases
from keeper.main import TICK_SECONDS, Keeper
from tests.conftest import new_task
from tests.keeper.conftest import LEASE
from worker.attempt import Attempt
from worker.run.lease import Lease

HOUR = 3600.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The keeper's own clock; change its only element."""
    moment = [100.0]
    monkeypatch.setattr("keeper.leases.time.monotonic", lambda: moment[0])
    return moment


def test_an_overdue_lease_is_dead_after_a_moment_of_silence(clock: list[float]) -> None:
    leases, held = Leases(10), [HeldLease("s", 1, 50.0, overdue=True)]
    assert leases.dead(held) == []
    for _ in range(4):
        clock[0] += 0.45
        assert leases.dead(held) == []
    clock[0] += 0.45
    assert leases.dead(held) == held


def test_a_lease_that_is_renewed_lives(clock: list[float]) -> None:
    leases = Leases(10)
    for number in range(50):
        clock[0] += 1
        assert leases.dead([HeldLease("s", 1, 50.0 + number, overdue=True)]) == []


def test_while_the_keeper_was_frozen_nobody_was_silent(clock: list[float]) -> None:
    leases, held = Leases(10), [HeldLease("s", 1, 50.0, overdue=True)]
    leases.dead(held)
    clock[0] += HOUR
    assert leases.dead(held) == []


def test_a_lease_that_lasts_too_long_is_not_believed(clock: list[float]) -> None:
    leases, held = Leases(10), [HeldLease("s", 1, 5000.0, overdue=False)]
    for _ in range(12):
        assert leases.dead(held) == []
        clock[0] += 1
    assert leases.dead(held) == held


def tick_for(keeper: Keeper, seconds: float) -> None:
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        keeper.tick()
        time.sleep(TICK_SECONDS)


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_a_clock_that_jumps_takes_no_lease_away(
    keeper: Keeper, set_clock: Callable[[float], None], jump: float
) -> None:
    ((step_id, _),) = keeper.ledger.create(new_task())
    claim = keeper.ledger.claim(step_id, "w", LEASE)
    assert claim is not None
    with Lease(keeper.ledger, claim, Attempt(), LEASE):
        tick_for(keeper, 1)
        set_clock(jump)
        tick_for(keeper, SILENCE_SECONDS + 2)
        assert keeper.ledger.finish(claim, {}, {}, {}) == []
    assert keeper.ledger.task(claim.task.task_id).status == Status.FINISHED


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_a_dead_worker_is_found_whatever_the_clock_does(
    keeper: Keeper, set_clock: Callable[[float], None], jump: float
) -> None:
    ((step_id, _),) = keeper.ledger.create(new_task())
    assert keeper.ledger.claim(step_id, "w1", LEASE) is not None
    set_clock(jump)
    tick_for(keeper, LEASE + SILENCE_SECONDS + 2.5)  # the lease, the silence, the rest after a lost attempt
    claim = keeper.ledger.claim(step_id, "w2", LEASE)
    assert claim is not None
    assert claim.step.attempt == 2


def test_a_step_that_rests_does_not_wait_for_a_clock_set_back(
    keeper: Keeper, set_clock: Callable[[float], None]
) -> None:
    ((step_id, _),) = keeper.ledger.create(new_task())
    set_clock(-HOUR)
    assert [woken.step_id for woken in keeper.ledger.steps_to_wake(older_than=60)] == [step_id]
    assert keeper.ledger.claim(step_id, "w", LEASE) is not None
