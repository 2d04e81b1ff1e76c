"""What the service keeps on a machine no other user of it reads: real programs, under the umask of most systems."""

import contextlib
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.pictures import SAMPLES
from harness.servers import RedisServer, wait_until
from harness.stack import Stack, running_stack

PROGRAMS = {
    "keys": ["app.keys", "create", "--name", "ann"],
    "app": ["app"],
    "keeper": ["keeper"],
    "worker": ["worker", "--queue", "cpu"],
    "net-worker": ["worker", "--queue", "net"],
}


@pytest.fixture(autouse=True)
def _umask_of_most_systems() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def open_to_others(folder: Path) -> list[str]:
    """`folder`, and what is in it, as far as others may enter, read or write it."""
    found = []
    for place in [folder, *folder.rglob("*")]:
        with contextlib.suppress(FileNotFoundError):  # gone meanwhile
            if place.lstat().st_mode & 0o077:
                found.append(f"{place} {place.lstat().st_mode:o}")
    return found


@contextlib.contextmanager
def started(folder: Path, redis: RedisServer, program: str) -> Iterator[Stack]:
    """One program, the first one ever, once it has made its ledger."""
    with Stack(folder, redis) as stack:
        stack.start(program, *PROGRAMS[program])
        wait_until((folder / "data" / "kinora.db").exists, what="the ledger")
        yield stack


@pytest.mark.parametrize("program", PROGRAMS)
def test_whichever_program_comes_first_makes_the_folder_and_its_files_for_its_user_alone(
    tmp_path: Path, redis_server: RedisServer, program: str
) -> None:
    with started(tmp_path, redis_server, program):
        assert open_to_others(tmp_path / "data") == []


def test_nobody_else_can_read_what_a_service_at_work_has_made(tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir(mode=0o700)
    with running_stack(tmp_path, TMPDIR=str(temporary), API_WORKERS="2") as stack:
        stack.finish(stack.upload(SAMPLES / "cat.jpg", width=64, height=64, num_frames=2))
        stack.gate.close()
        half_done = stack.upload(SAMPLES / "cat.jpg", width=64, height=64, num_frames=2)
        stack.wait_for_phase(half_done)
        made = {place.name for folder in ("data", "temporary") for place in (tmp_path / folder).rglob("*")}
        assert {"kinora.db", "kinora.db-wal", "kinora.db-shm", "video.mp4"} <= made
        assert any(name.startswith("kinora-worker-") for name in made)
        assert any(name.startswith("kinora-metrics-") for name in made)
        assert open_to_others(tmp_path / "data") + open_to_others(temporary) == []
        stack.announced.add("worker-cpu ended with -9")
        stack.kill("worker-cpu", signal.SIGKILL)
        assert open_to_others(temporary) == []


@pytest.mark.parametrize("program", ["app", "keeper", "worker"])
def test_a_folder_that_others_may_enter_is_said_and_left_as_it_is(
    tmp_path: Path, redis_server: RedisServer, program: str, migrated_file: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o755)
    shutil.copy(migrated_file, data / "kinora.db")
    (data / "kinora.db").chmod(0o644)
    with started(tmp_path, redis_server, program):
        log = tmp_path / f"{program}.log"
        wait_until(lambda: "open_to_other_users" in log.read_text(), what="the warning")
        (line,) = [line for line in log.read_text().splitlines() if "open_to_other_users" in line]
        assert f"chmod -R go-rwx {data}" in line
        assert data.stat().st_mode & 0o777 == 0o755
        assert (data / "kinora.db").stat().st_mode & 0o777 == 0o644


def test_a_ledger_and_a_storage_elsewhere_are_said_too(
    tmp_path: Path, redis_server: RedisServer, migrated_file: Path
) -> None:
    ledger, files, data = tmp_path / "own.db", tmp_path / "files", tmp_path / "data"
    shutil.copy(migrated_file, ledger)
    ledger.chmod(0o640)
    files.mkdir(mode=0o750)
    data.mkdir(mode=0o700)
    with Stack(tmp_path, redis_server, DATABASE_URL=f"sqlite:///{ledger}", STORAGE_URL=f"file://{files}") as stack:
        stack.start("keeper", "keeper")
        log = tmp_path / "keeper.log"
        wait_until(lambda: "open_to_other_users" in log.read_text(), what="the warning")
        assert f"chmod -R go-rwx {ledger} {files}" in log.read_text()


def test_a_folder_of_its_users_alone_is_nothing_to_say(tmp_path: Path, redis_server: RedisServer) -> None:
    with started(tmp_path, redis_server, "keeper"):
        wait_until(lambda: "keeper_started" in (tmp_path / "keeper.log").read_text(), what="the keeper")
        assert "open_to_other_users" not in (tmp_path / "keeper.log").read_text()
