"""Processes of different versions at one ledger."""

from pathlib import Path

import sqlalchemy as sa

from core.db.database import newest_version
from core.ledger.moves import Ledger
from core.process.unusable import EXIT_UNUSABLE
from harness.pictures import SAMPLES
from harness.servers import wait_until
from harness.stack import running_stack


def test_a_process_that_is_too_old_for_the_ledger_stops_with_one_line(tmp_path: Path) -> None:
    with running_stack(tmp_path) as stack:
        ledger = Ledger(f"sqlite:///{tmp_path}/data/kinora.db")
        with ledger.database.begin() as connection:
            connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
        stack.kill("keeper")
        stack.start_missing()
        log = tmp_path / "keeper.log"
        wait_until(lambda: log.read_text().count("keeper_started") == 2, what="the second keeper")
        stack.finish(stack.upload(SAMPLES / "cat.jpg", num_frames=2, width=64, height=64))  # newer, and open to it

        with ledger.database.begin() as connection:
            connection.execute(sa.text("UPDATE ledger SET lowest_reader = '9999'"))
        ledger.close()
        processes = stack.processes.copy()
        wait_until(lambda: all(each.poll() is not None for each in processes.values()), 30, "the end of all")
        assert {name: process.returncode for name, process in processes.items()} == dict.fromkeys(processes, 0)
        for name in processes:
            stack.start(f"{name}-again", *{"worker-cpu": ("worker", "--queue", "cpu")}.get(name, (name,)))
        again = {name: stack.processes.pop(f"{name}-again").wait(30) for name in processes}
        assert again == dict.fromkeys(processes, EXIT_UNUSABLE)
        line = f"kinora: the ledger is of version 9999, and this program knows {newest_version()}: update it\n"
        for name in processes:
            assert (tmp_path / f"{name}-again.log").read_text() == line
            assert line in (tmp_path / f"{name}.log").read_text()
