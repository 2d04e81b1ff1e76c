"""The system's temporary folder, to which other users of the machine write too."""

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.pictures import SAMPLES
from harness.servers import RedisServer, wait_until
from harness.stack import Stack, running_stack


@contextlib.contextmanager
def keeping(folder: Path, temporary: Path, redis: RedisServer) -> Iterator[Stack]:
    """A keeper that has shown its first sign of life."""
    with Stack(folder, redis, TMPDIR=str(temporary)) as stack:
        stack.start("keeper", "keeper")
        wait_until(lambda: list(temporary.glob("kinora-keeper-*/alive")), what="a sign of life")
        yield stack


@pytest.mark.parametrize("theirs", ["a link to nothing", "a link to a folder", "a folder"])
def test_what_others_put_there_neither_leads_the_keeper_elsewhere_nor_ends_it(
    tmp_path: Path, redis_server: RedisServer, theirs: str
) -> None:
    temporary, elsewhere = tmp_path / "temporary", tmp_path / "elsewhere"
    temporary.mkdir()
    placed = temporary / "kinora-keeper"  # where it wrote once
    if theirs == "a folder":
        placed.mkdir()
    else:
        placed.symlink_to(elsewhere)
    if theirs == "a link to a folder":
        elsewhere.mkdir()
        (elsewhere / "lock").touch()
    before = sorted(elsewhere.glob("*"))
    with keeping(tmp_path, temporary, redis_server) as stack:
        assert stack.processes["keeper"].poll() is None
        assert sorted(elsewhere.glob("*")) == before
        assert elsewhere.exists() == (theirs == "a link to a folder")
        assert placed.is_symlink() == (theirs != "a folder")


def test_a_keeper_takes_its_sign_of_life_with_it(tmp_path: Path, redis_server: RedisServer) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    with keeping(tmp_path, temporary, redis_server) as stack:
        assert stack.kill("keeper", signal.SIGTERM) == 0
    assert list(temporary.iterdir()) == []


def test_no_name_there_can_be_known_beforehand(tmp_path: Path) -> None:
    names: list[set[str]] = []
    for run in ("first", "second"):
        folder, temporary = tmp_path / run, tmp_path / run / "temporary"
        temporary.mkdir(parents=True)
        with running_stack(folder, TMPDIR=str(temporary), API_WORKERS="2") as stack:
            stack.finish(stack.upload(SAMPLES / "cat.jpg", width=64, height=64, num_frames=2))
            wait_until(lambda: list(temporary.glob("kinora-keeper-*/alive")), what="a sign of life")  # noqa: B023 - at once
            names.append({place.name for place in temporary.iterdir()})
    assert len(names[0]) >= 3
    assert names[0] & names[1] == set()
