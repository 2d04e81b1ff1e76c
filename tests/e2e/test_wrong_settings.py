"""A store that cannot be used: each process says so in one line that names the setting, without a traceback."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from core.db import database
from harness.servers import free_port, wait_until
from harness.stack import ROOT
from tests.conftest import create_database

PROCESSES = {
    "app": ("app",),
    "worker": ("worker", "--queue", "cpu"),
    "keeper": ("keeper",),
    "keys": ("app.keys", "create", "--name", "ann"),
}
ENDS = pytest.mark.parametrize("process", PROCESSES)


@contextlib.contextmanager
def started(process: str, folder: Path, **settings: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A process, and the file of all that it says."""
    own = {"DATA_DIR": str(folder / "data"), "API_PORT": str(free_port()), "WORKER_METRICS_PORT": str(free_port())}
    log = folder / f"{process}.log"
    with log.open("wb") as said:
        command = [sys.executable, "-m", *PROCESSES[process]]
        running = subprocess.Popen(command, cwd=ROOT, env=os.environ | own | settings, stdout=said, stderr=said)
    try:
        yield running, log
    finally:
        running.kill()
        running.wait()


def not_a_database(folder: Path) -> dict[str, str]:
    (folder / "data").mkdir()
    (folder / "data" / "kinora.db").write_bytes(b"notes" * 1000)
    return {}


def too_new(folder: Path) -> dict[str, str]:
    url = f"sqlite:///{folder}/new/kinora.db"
    engine = database.connect(url)
    database.migrate(engine)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
        connection.execute(sa.text("UPDATE ledger SET lowest_reader = '9999'"))
    engine.dispose()
    return {"DATABASE_URL": url}


def of_another_program(folder: Path) -> dict[str, str]:
    url = f"sqlite:///{folder}/other.db"
    engine = database.connect(url)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE alembic_version (version_num VARCHAR(32))"))
        connection.execute(sa.text("INSERT INTO alembic_version VALUES ('f00dcafe')"))
    engine.dispose()
    return {"DATABASE_URL": url}


def with_a_table_of_the_same_name(folder: Path) -> dict[str, str]:
    url = f"sqlite:///{folder}/same.db"
    engine = database.connect(url)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE tasks (id INTEGER)"))
    engine.dispose()
    return {"DATABASE_URL": url}


CASES: dict[Callable[[Path], dict[str, str]], str] = {
    not_a_database: "file is not a database (see DATA_DIR or DATABASE_URL)",
    too_new: "the ledger is of version 9999, and this program knows",
    of_another_program: "another program has its tables in this database: give Kinora its own (see DATA_DIR",
    with_a_table_of_the_same_name: "table tasks already exists (see DATA_DIR or DATABASE_URL)",
    lambda folder: {"DATA_DIR": "/proc/nowhere"}: "set DATA_DIR to a folder that can be made and written to, for ",
    lambda folder: {"DATABASE_URL": "mysql://ann:secret@h/d"}: "DATABASE_URL: must begin with postgresql://",
    lambda folder: {"DATABASE_URL": "postgresql://ann:secret@h/d?sslmode=bogus"}: "invalid sslmode value",
    lambda folder: {"DATABASE_URL": "sqlite:///kinora.db"}: "must have the whole path of the file",
    lambda folder: {"API_PORT": "secret"}: "API_PORT: Input should be a valid integer",
}


@ENDS
@pytest.mark.parametrize(("given", "said"), CASES.items(), ids=CASES.values())
def test_what_no_waiting_mends_ends_the_process_with_one_line(
    tmp_path: Path, process: str, given: Callable[[Path], dict[str, str]], said: str
) -> None:
    with started(process, tmp_path, **given(tmp_path)) as (running, log):
        assert running.wait(60) == 78
        (line,) = log.read_text().splitlines()
    assert line.startswith("kinora: ")
    assert said in line
    assert "secret" not in line


@pytest.mark.parametrize(
    ("name", "value"), [("ENGINE", "nowhere"), ("VIDEO_WIDTH", "65"), ("RATE_LIMIT", "often")], ids=str
)
def test_a_setting_that_only_the_api_server_reads_is_one_line(tmp_path: Path, name: str, value: str) -> None:
    with started("app", tmp_path, **{name: value}) as (running, log):
        assert running.wait(60) == 78
        (line,) = log.read_text().splitlines()
    assert line.startswith("kinora: the settings do not fit: ")
    assert name in line


def test_several_http_processes_end_for_good_as_one_does(tmp_path: Path) -> None:
    with started("app", tmp_path, API_WORKERS="2") as (running, log):
        wait_until(lambda: log.read_text().count("Application startup complete") == 2, 60, "both")
        engine = sa.create_engine(f"sqlite:///{tmp_path}/data/kinora.db")
        with engine.begin() as connection:
            connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
            connection.execute(sa.text("UPDATE ledger SET lowest_reader = '9999'"))
        engine.dispose()
        assert running.wait(60) == 78
    assert log.read_text().splitlines()[-1].startswith("kinora: the ledger is of version 9999")
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize("process", ["app", "worker", "keeper"])
def test_a_storage_that_cannot_be_made_is_one_line(tmp_path: Path, process: str) -> None:
    with started(process, tmp_path, STORAGE_URL="file:///proc/nowhere") as (running, log):
        assert running.wait(60) == 78
        assert log.read_text().endswith("/proc/nowhere: No such file or directory (os error 2)\n")
        assert "kinora: set DATA_DIR, or STORAGE_URL, to a folder" in log.read_text()
        assert "Traceback" not in log.read_text()


def weak(postgres_url: str) -> str:
    """Return the URL of a database in which its user may make nothing."""
    url = create_database(postgres_url, "weak")
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("REVOKE CREATE ON SCHEMA public FROM PUBLIC"))
        connection.execute(sa.text("CREATE ROLE weak LOGIN"))
    engine.dispose()
    return url.replace("postgres:@", "weak:@")


def test_a_user_who_may_make_no_tables_is_one_line(tmp_path: Path, postgres_url: str) -> None:
    url = weak(postgres_url)
    for process in PROCESSES:
        with started(process, tmp_path, DATABASE_URL=url) as (running, log):
            assert running.wait(60) == 78
            (line,) = log.read_text().splitlines()
        assert "permission denied for schema public (see DATABASE_URL)" in line


@pytest.mark.parametrize("process", PROCESSES)
def test_a_server_that_lets_nobody_in_is_named_by_its_setting(tmp_path: Path, postgres_url: str, process: str) -> None:
    """Processes wait for it: servers start in any order. The command does not."""
    url = postgres_url.replace("postgres:@", "nobody:secret@")
    with started(process, tmp_path, DATABASE_URL=url, LOG_FORMAT="console") as (running, log):
        said = 'role "nobody" does not exist (see DATABASE_URL)'
        wait_until(lambda: said in log.read_text(), 60, "the line")
        assert "Traceback" not in log.read_text()
        assert "secret" not in log.read_text()
        assert process != "keys" or running.wait(60) == 1
