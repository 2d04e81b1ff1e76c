"""A keeper at a database whose clock can be set."""

import time
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from core.config import Settings
from core.ledger import Ledger
from core.queue import StepQueue
from core.storage import Storage
from keeper.main import Keeper

LEASE = 1.5


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
