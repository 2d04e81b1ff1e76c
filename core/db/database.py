"""The connection to the ledger's database: SQLite or PostgreSQL, its transactions, and its schema's version."""

import functools
import json
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event, exc

from core.db.hopeless import is_hopeless
from core.db.tables import ledger
from core.errors import LedgerTooNew, LedgerUnavailable, Unusable

BUSY_TIMEOUT_MS = 10_000
# Between two batches of rows that are deleted: on SQLite nobody is told that it is his turn to write, he looks again.
BATCH_PAUSE_SECONDS = 0.1
MIGRATIONS = Path(__file__).parent / "migrations"

# Keys of PostgreSQL's advisory locks; any constants would do that differ.
MIGRATION_LOCK = 0x6B696E6F7261
BOUNDS_LOCK = 0x6B696E6F7262
ENDPOINTS_LOCK = 0x6B696E6F7263


NO_LEDGER = "there is no ledger yet (see {})"

# What a caller wrote stands there as it is: an escape takes up to three times its bytes.
to_json = functools.partial(json.dumps, ensure_ascii=False)

OLDEST_SQLITE = (3, 35, 5)  # RETURNING, and a DROP COLUMN that damages nothing


def connect(url: str) -> sa.Engine:
    # hide_parameters: an error in the log must not show a prompt or a caller's URL.
    if sa.make_url(url).get_backend_name() != "sqlite":
        from core.db.postgresql import create_engine  # its driver, which most processes do without

        return create_engine(url, json_serializer=to_json)
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        raise Unusable(f"SQLite 3.35.5 or newer is needed, here is {sqlite3.sqlite_version}: set DATABASE_URL instead")
    engine = sa.create_engine(
        url, hide_parameters=True, json_serializer=to_json, connect_args={"timeout": BUSY_TIMEOUT_MS / 1000}
    )
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    # Python's sqlite3 opens transactions on its own unless told not to; _begin_sqlite does it instead.
    connection.isolation_level = None
    _use_wal(connection)
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute("PRAGMA synchronous=FULL")


def _use_wal(connection: sqlite3.Connection) -> None:
    """Several processes may meet at a new file. The change of its mode asks for it alone, and SQLite says "locked" at
    once, without waiting, if two of them could wait for each other."""
    give_up_at = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > give_up_at:
                raise
            time.sleep(0.01)


def _begin_sqlite(connection: sa.Connection) -> None:
    # A deferred transaction that turns from reading to writing fails at once when another one writes:
    # a write takes its lock at the start, where waiting for it is possible.
    writes = connection.get_execution_options().get("kinora_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextmanager
def reading(engine: sa.Engine) -> Iterator[sa.Connection]:
    with _translated(), engine.connect() as connection:
        yield connection


@contextmanager
def writing(engine: sa.Engine) -> Iterator[sa.Connection]:
    """One transaction: committed at the end, rolled back on any exception."""
    with _translated(), engine.connect().execution_options(kinora_writes=True) as connection, connection.begin():
        yield connection


def delete_in_batches(engine: sa.Engine, table: sa.Table, which: sa.ColumnElement[bool], size: int = 500) -> None:
    """Delete rows in several transactions, so that nobody else who writes waits for all of them."""
    key = sa.tuple_(*table.primary_key)
    some = table.delete().where(key.in_(sa.select(*table.primary_key).where(which).limit(size)))
    while True:
        with writing(engine) as tx:
            deleted = tx.execute(some).rowcount
        if deleted < size:
            return
        time.sleep(BATCH_PAUSE_SECONDS)


def one_at_a_time(tx: sa.Connection, lock: int) -> None:
    """Until `tx` ends no other transaction passes here, so that what is counted and written is one step. On SQLite
    writers queue up anyway."""
    if tx.dialect.name == "postgresql":
        tx.execute(sa.select(sa.func.pg_advisory_xact_lock(lock)))


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (exc.IntegrityError, exc.ProgrammingError, exc.DataError):
        raise  # a fault of ours
    except (exc.DBAPIError, exc.TimeoutError) as error:  # away, read-only after a failover, damaged, full
        raise LedgerUnavailable(f"the ledger does not answer: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def migrate(engine: sa.Engine, may_make: bool = True) -> None:
    """Bring the schema up to date. Safe to call from several processes at once: one works, the others wait. Unless it
    `may_make` one, it makes no file and no tables where there are none.

    Raises LedgerUnavailable, for which to wait, and Unusable, where that helps nothing.
    """
    try:
        prepare_file(engine, may_make)
        bring_up_to_date(engine, may_make)
    except LedgerUnavailable as error:
        if is_hopeless(error.__cause__):
            raise Unusable(f"{error.message} (see {setting_of(engine)})") from error
        raise LedgerUnavailable(f"{error.message} (see {setting_of(engine)})") from error
    except exc.ProgrammingError as error:
        if not is_hopeless(error):
            raise  # a fault of ours
        raise Unusable(f"the ledger cannot be used: {first_line(error)} (see {setting_of(engine)})") from error


def setting_of(engine: sa.Engine) -> str:
    return "DATABASE_URL" if engine.dialect.name == "postgresql" else "DATA_DIR or DATABASE_URL"


def prepare_file(engine: sa.Engine, may_make: bool) -> None:
    """Make the folder of SQLite's file. Raises Unusable."""
    if engine.dialect.name != "sqlite":
        return
    file = Path(engine.url.database or "")
    if not may_make and not file.exists():
        raise Unusable(NO_LEDGER.format(setting_of(engine)))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Unusable(f"set DATA_DIR to a folder that can be made and written to, for {error}") from error


def bring_up_to_date(engine: sa.Engine, may_make: bool) -> None:
    with reading(engine) as connection:
        found = version(connection) or ""
        if not found and not may_make:
            raise Unusable(NO_LEDGER.format(setting_of(engine)))
        if found and not re.fullmatch(r"\d{4}", found):
            setting = setting_of(engine)
            raise Unusable(f"another program has its tables in this database: give Kinora its own (see {setting})")
        if found >= newest_version():
            check_reader(connection)
            return
    from alembic import command, config  # takes a tenth of a process's start, which mostly finds nothing to do

    with writing(engine) as connection:
        one_at_a_time(connection, MIGRATION_LOCK)
        if connection.dialect.name == "postgresql":  # a large table takes its time
            connection.execute(sa.text("SET LOCAL statement_timeout = 0"))
        settings = config.Config()
        settings.set_main_option("script_location", str(MIGRATIONS))
        settings.attributes["connection"] = connection
        command.upgrade(settings, "head")


LOWEST_READER = sa.select(ledger.c.lowest_reader)


def check_reader(connection: sa.Connection) -> None:
    """Raises LedgerTooNew if this code is older than what the ledger asks of its readers. One that is newer than this
    code, but says that this code may read it, is fine."""
    lowest = connection.scalar(LOWEST_READER)
    if lowest and lowest > newest_version():
        raise LedgerTooNew(f"the ledger is of version {lowest}, and this program knows {newest_version()}: update it")


def version(connection: sa.Connection) -> str | None:
    """Return the revision that Alembic has recorded; None in a database that has no tables yet."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
    return found


@functools.cache  # as it was when this process began: its files may be replaced while it runs
def newest_version() -> str:
    """Return the last revision of core/db/migrations: their files' names begin with it, and are in order."""
    return max(file.name.partition("_")[0] for file in (MIGRATIONS / "versions").glob("[0-9]*.py"))
