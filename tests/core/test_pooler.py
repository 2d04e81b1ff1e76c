"""A database behind PgBouncer, which gives each transaction any of a few sessions."""

import contextlib
import getpass
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from core.db import postgresql
from core.db.database import reading, writing
from core.errors import LedgerUnavailable
from core.ledger.moves import Ledger
from harness.pictures import SAMPLES
from harness.servers import free_port, wait_until
from harness.stack import running_stack
from tests.conftest import create_database, new_task

needs_pgbouncer = pytest.mark.usefixtures("has_pgbouncer")


@pytest.fixture(scope="module")
def has_pgbouncer() -> None:
    if shutil.which("pgbouncer") is None:
        assert not os.environ.get("CI"), "pgbouncer is missing: apt-get install pgbouncer"
        pytest.skip("needs Debian's pgbouncer")


@contextlib.contextmanager
def pgbouncer(postgres_url: str, folder: Path, mode: str, *settings: str) -> Iterator[str]:
    """Yield the URL of an empty database, as PgBouncer offers it over two sessions."""
    direct = sa.make_url(create_database(postgres_url, f"pooled_{uuid.uuid4().hex}"))
    port, database = free_port(), direct.database
    config = folder / "pgbouncer.ini"
    lines = [
        *("[databases]", f"{database} = host={direct.query['host']} user={direct.username} pool_size=2"),
        *("[pgbouncer]", "listen_addr = 127.0.0.1", f"listen_port = {port}", "unix_socket_dir =", "auth_type = any"),
        *(f"pool_mode = {mode}", *settings),
    ]
    config.write_text("\n".join(lines) + "\n")
    # It refuses to run as root, and then must reach what is root's.
    reachable = [config, *Path(str(direct.query["host"])).parents, *config.parents, Path(str(direct.query["host"]))]
    user = None if os.geteuid() else "nobody"
    modes = {path: path.stat().st_mode for path in reachable if user and not path.stat().st_mode & 0o001}
    for path in modes:
        path.chmod(0o755)
    process = subprocess.Popen(["pgbouncer", str(config)], user=user, stderr=subprocess.DEVNULL)
    url = f"postgresql+psycopg://{getpass.getuser()}@127.0.0.1:{port}/{database}"
    try:
        wait_until(lambda: answers(url), 20, "PgBouncer")
        yield url
    finally:
        process.kill()
        process.wait()
        for path, before in modes.items():
            path.chmod(before)


def answers(url: str) -> bool:
    try:
        psycopg.connect(url.replace("+psycopg", "")).close()
    except psycopg.OperationalError:
        return False
    return True


@pytest.fixture(params=["refuses our timeouts", "ignores them"])
def pooled_url(request: pytest.FixtureRequest, postgres_url: str, tmp_path: Path) -> Iterator[str]:
    settings = ["ignore_startup_parameters = options"] if request.param == "ignores them" else []
    with pgbouncer(postgres_url, tmp_path, "transaction", *settings) as url:
        yield url


@needs_pgbouncer
def test_the_ledger_works_behind_it(pooled_url: str) -> None:
    """Often enough that each statement would be prepared, in sessions that others have meanwhile."""
    ledgers = [Ledger(pooled_url), Ledger(pooled_url)]
    ledgers[0].migrate()

    def work(number: int) -> str:
        ledger = ledgers[number % 2]
        ledger.create(new_task())
        claim = ledger.claim_next("cpu", f"worker-{number}", 60)
        assert claim is not None
        assert ledger.finish(claim, [], {}, {}) is not None
        return claim.task.task_id

    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(work, range(80)))
    assert len(set(done)) == 80
    assert {ledgers[1].task(task_id).status for task_id in done} == {"finished"}
    for ledger in ledgers:
        ledger.close()


@needs_pgbouncer
def test_its_timeouts_hold_behind_it(pooled_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(pooled_url)
    for transaction in (reading, writing):
        with transaction(ledger.database) as connection:
            found = {name: connection.scalar(sa.text(f"SHOW {name}")) for name in postgresql.TIMEOUTS}
        assert found == postgresql.TIMEOUTS
    monkeypatch.setattr(postgresql, "SET_TIMEOUTS", "SELECT set_config('statement_timeout', '50ms', true)")
    with pytest.raises(LedgerUnavailable, match="statement timeout"), reading(ledger.database) as connection:
        connection.execute(sa.text("SELECT pg_sleep(10)"))
    ledger.close()


@needs_pgbouncer
def test_the_service_works_behind_it(pooled_url: str, tmp_path: Path) -> None:
    (folder := tmp_path / "stack").mkdir()
    with running_stack(folder, DATABASE_URL=pooled_url.replace("+psycopg", "")) as stack:
        for _ in range(3):
            stack.finish(stack.upload(SAMPLES / "cat.jpg", width=64, height=64, num_frames=2))


@needs_pgbouncer
def test_one_that_takes_transactions_apart_is_refused_in_one_line(postgres_url: str, tmp_path: Path) -> None:
    with pgbouncer(postgres_url, tmp_path, "statement") as url:
        ledger = Ledger(url)
        with pytest.raises(LedgerUnavailable, match=r"statement pooling mode \(see DATABASE_URL\)"):
            ledger.migrate()
        ledger.close()


def test_without_a_pooler_statements_are_prepared_and_nothing_is_set_in_each(postgres_url: str) -> None:
    url = create_database(postgres_url, f"direct_{uuid.uuid4().hex}")
    engine = postgresql.create_engine(url)
    said: list[str] = []
    sa.event.listen(engine, "before_cursor_execute", lambda *given: said.append(given[2]))
    with engine.connect() as connection:
        connection.execute(sa.text("SELECT 1"))
        assert connection.connection.dbapi_connection.prepare_threshold == 5
        assert connection.scalar(sa.text("SHOW statement_timeout")) == "15s"
    assert said == ["SELECT 1", "SHOW statement_timeout"]
    engine.dispose()


def test_options_in_the_url_hold_in_each_connection(postgres_url: str) -> None:
    url = create_database(postgres_url, f"options_{uuid.uuid4().hex}")
    engine = postgresql.create_engine(f"{url}&options=-csearch_path%3Dkinora")
    with engine.connect() as first, engine.connect() as second:
        for connection in (first, second):
            assert connection.scalar(sa.text("SHOW search_path")) == "kinora"
            assert connection.scalar(sa.text("SHOW statement_timeout")) == "15s"
    engine.dispose()


def test_a_timeout_of_the_url_holds_and_is_not_taken_for_a_pooler(postgres_url: str) -> None:
    url = create_database(postgres_url, f"timeouts_{uuid.uuid4().hex}")
    engine = postgresql.create_engine(f"{url}&options=-c%20lock_timeout%3D3s%20-c%20statement_timeout%3D1min")
    with engine.connect() as connection:
        assert not connection.connection.dbapi_connection.is_pooled
        assert connection.connection.dbapi_connection.prepare_threshold == 5
        found = {name: connection.scalar(sa.text(f"SHOW {name}")) for name in postgresql.TIMEOUTS}
    assert found == postgresql.TIMEOUTS | {"lock_timeout": "3s", "statement_timeout": "1min"}
    engine.dispose()
