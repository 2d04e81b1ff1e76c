import sqlite3
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import sqlalchemy as sa
from alembic.config import Config
from alembic.script import ScriptDirectory

from core.db import database


def test_a_new_file_that_another_process_is_busy_with_is_waited_for(tmp_path: Path) -> None:
    file = tmp_path / "kinora.db"
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("CREATE TABLE t (x)")
    other.execute("BEGIN IMMEDIATE")  # as another process does that changes the mode, or makes the schema

    engine = database.connect(f"sqlite:///{file}")

    def mode() -> str:
        with database.reading(engine) as connection:
            return str(connection.scalar(sa.text("PRAGMA journal_mode")))

    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(mode)
        waiting = wait([answer], timeout=0.3).not_done
        other.execute("COMMIT")
        assert waiting
        assert answer.result() == "wal"
    other.close()
    engine.dispose()


def test_the_newest_version_is_that_of_the_last_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(database.MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_heads() == [database.newest_version()]


def test_a_schema_that_is_up_to_date_is_left_alone_without_a_lock(tmp_path: Path) -> None:
    file = tmp_path / "kinora.db"
    engine = database.connect(f"sqlite:///{file}")
    database.migrate(engine)
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    database.migrate(engine)  # it would wait for ten seconds and then raise
    other.execute("ROLLBACK")
    other.close()
    with database.reading(engine) as connection:
        assert database.version(connection) == database.newest_version()
    engine.dispose()
