"""Which attempts the keeper believes dead; also when the database's clock jumps."""

import time
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from core.config import Settings
from core.ledger import Ledger
from core.queue import StepQueue
from core.storage import Storage
from core.task import HeldLease, Status
from keeper.leases import SILENCE_SECONDS, Leases
from keeper.main import TICK_SECONDS, Keeper
from tests.conftest import new_task
from worker.attempt import Attempt
from worker.lease import Lease

HOUR = 3600.0
LEASE = 1.5


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


@pytest.fixture
def set_clock(empty_database_url: str) -> Iterator[Callable[[float], None]]:
    """Sets the database's clock forward by so many seconds, for every connection made from now on."""
    if empty_database_url.startswith("sqlite"):
        yield from _sqlite_clock()
    else:
        yield from _postgresql_clock(empty_database_url)


def _sqlite_clock() -> Iterator[Callable[[float], None]]:
    shift = [0.0]

    def connected(connection: sa.engine.interfaces.DBAPIConnection, _record: object) -> None:
        connection.create_function("julianday", 1, lambda _: 2440587.5 + (time.time() + shift[0]) / 86400)

    event.listen(sa.Engine, "connect", connected)
    yield lambda seconds: shift.__setitem__(0, seconds)
    event.remove(sa.Engine, "connect", connected)


def _postgresql_clock(url: str) -> Iterator[Callable[[float], None]]:
    """A function of the same name, in a schema that is looked into first."""
    admin = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        for statement in (
            "CREATE SCHEMA shifted",
            "CREATE TABLE shifted.clock AS SELECT 0.0::double precision AS seconds",
            "CREATE FUNCTION shifted.statement_timestamp() RETURNS timestamptz LANGUAGE sql AS "
            "'SELECT pg_catalog.statement_timestamp() + make_interval(secs => (SELECT seconds FROM shifted.clock))'",
            f"ALTER DATABASE {sa.make_url(url).database} SET search_path = shifted, pg_catalog, public",
        ):
            connection.execute(sa.text(statement))
        set_clock = sa.text("UPDATE shifted.clock SET seconds = :seconds")
        yield lambda seconds: connection.execute(set_clock, {"seconds": seconds})
    admin.dispose()


@pytest.fixture
def keeper(set_clock: Callable[[float], None], settings: Settings, empty_database_url: str) -> Iterator[Keeper]:
    ledger, queue = Ledger(empty_database_url), StepQueue(settings)
    ledger.migrate()
    soon = settings.model_copy(update={"lease_seconds": LEASE})
    yield Keeper(soon, ledger, Storage(settings.resolved_storage_url), queue)
    queue.close()
    ledger.close()


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
