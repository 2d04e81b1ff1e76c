"""Fixtures that every test may use: real servers, started once, and clean stores for each test."""

import logging
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
import structlog
from sqlalchemy import event

from core.config.settings import Settings
from core.db.tables import link_secrets, metadata
from core.ids import new_id
from core.ledger.moves import Ledger
from core.process.no_proxy import reach_loopback_directly
from core.storage import Storage, input_key
from core.task import Artifact, Callback, Input, NewStep, NewTask
from harness.servers import PostgresServer, RedisServer, s3_server

pytest_plugins = ["harness.durations"]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out tests/long, unless it is named."""
    is_long = collection_path == Path(__file__).parent / "long"
    return True if is_long and not any("tests/long" in named for named in config.option.file_or_dir) else None


@pytest.fixture(autouse=True, scope="session")
def _loggers_are_not_cached() -> Iterator[None]:
    """structlog.testing.capture_logs sees nothing of a logger that a process in an earlier test has cached."""
    configure = structlog.configure
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(structlog, "configure", lambda **given: configure(**given | {"cache_logger_on_first_use": False}))
        yield


@pytest.fixture(autouse=True, scope="session")
def _loopback_is_behind_no_proxy() -> None:
    """As in the processes themselves: the tests' clients ask servers on this machine."""
    reach_loopback_directly()


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """Processes set up logging for themselves; a test that builds one in here must not leave it to the next."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    with PostgresServer() as server:
        yield server.url


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    with s3_server() as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def tiny_svd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a real Stable Video Diffusion checkpoint, very small, with random weights."""
    from harness.tiny_svd import build_tiny_svd  # torch takes seconds to import: only where a test asks for it

    return build_tiny_svd(tmp_path_factory.mktemp("tiny-svd"))


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite database with all tables and no rows, to be copied: to migrate one takes ten times as long."""
    path = tmp_path_factory.mktemp("migrated") / "kinora.db"
    ledger = Ledger(f"sqlite:///{path}")
    ledger.migrate()
    ledger.close()
    return path


@pytest.fixture(scope="session")
def migrated_postgres_url(postgres_url: str) -> str:
    """Such a database in PostgreSQL: one for all tests, for to create one or to drop it takes longer than a test."""
    url = create_database(postgres_url, "migrated")
    ledger = Ledger(url)
    ledger.migrate()
    ledger.close()
    return url


def create_database(postgres_url: str, name: str) -> str:
    server = postgres_url.replace("postgresql://", "postgresql+psycopg://")
    admin = sa.create_engine(server, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    admin.dispose()
    return server.replace("/postgres?", f"/{name}?")


def empty_tables(url: str) -> None:
    """Of whoever may still be connected, too: nobody is left to hold a lock."""
    engine = sa.create_engine(url)
    filled = {link_secrets.name, "ledger"}  # by migrating
    to_empty = [table.name for table in metadata.sorted_tables if table.name not in filled]
    with engine.begin() as connection:
        connection.execute(
            sa.text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid != pg_backend_pid()"
            )
        )
        connection.execute(sa.text(f"TRUNCATE {', '.join(to_empty)} RESTART IDENTITY"))
    engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without tables, on each backend in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/kinora.db"
    return create_database(request.getfixturevalue("postgres_url"), f"test_{uuid.uuid4().hex}")


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


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database with tables and no rows, on each backend in turn."""
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("migrated_file"), tmp_path / "kinora.db")
        return f"sqlite:///{tmp_path}/kinora.db"
    url: str = request.getfixturevalue("migrated_postgres_url")
    empty_tables(url)
    return url


@pytest.fixture
def ledger(database_url: str) -> Iterator[Ledger]:
    ledger = Ledger(database_url)
    yield ledger
    ledger.close()


@pytest.fixture(params=["folder", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """An empty storage, on each backend in turn."""
    if request.param == "folder":
        return Storage(f"file://{tmp_path}/storage")
    endpoint = request.getfixturevalue("s3_endpoint")
    for name, value in {
        "AWS_ENDPOINT": endpoint,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    bucket = f"test-{uuid.uuid4().hex}"
    import boto3

    boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket=bucket)
    return Storage(f"s3://{bucket}/kinora")


@pytest.fixture
def settings(tmp_path: Path, redis_server: RedisServer, migrated_file: Path) -> Settings:
    """A whole installation of its own: a fresh folder with a ledger, an emptied Redis."""
    redis_server.client.flushall()
    (tmp_path / "data").mkdir()
    shutil.copy(migrated_file, tmp_path / "data" / "kinora.db")
    return Settings(_env_file=None, data_dir=tmp_path / "data", redis_port=redis_server.port)


def expire_leases(ledger: Ledger, max_attempts: int = 3) -> list[str]:
    """Take every step whose lease ran out from its worker, as the keeper does after a moment of silence."""
    overdue = [lease for lease in ledger.held_leases() if lease.overdue]
    return [lease.step_id for lease in overdue if ledger.take_over(lease, max_attempts)]


def input_for(task_id: str, role: str = "picture") -> Input:
    """Nothing is stored there."""
    return Input(role, input_key(task_id, role), "0" * 64, "image/jpeg")


def artifacts_at(**keys: str) -> list[Artifact]:
    """What a step has made, by the keys at which nothing is stored."""
    return [Artifact(name, key, 1, "0" * 64) for name, key in keys.items()]


def new_task(engine: str = "preview", steps: list[NewStep] | None = None, callback: Callback | None = None) -> NewTask:
    task_id = new_id()
    return NewTask(
        task_id=task_id,
        owner="",
        callback=callback,
        engine=engine,
        params={"width": 64},
        inputs=[input_for(task_id)],
        warnings=[],
        steps=steps or [NewStep(kind="clip", queue="cpu", engine=engine)],
    )
