import sqlite3
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import sqlalchemy as sa

from core import database


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
