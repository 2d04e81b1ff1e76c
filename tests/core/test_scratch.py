import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from core.process.scratch import scratch_folder


def test_a_killed_process_leaves_a_folder_that_the_next_one_clears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    script = (
        f"import os, tempfile; tempfile.tempdir = {str(tmp_path)!r}\n"
        "from core.process.scratch import scratch_folder\n"
        "with scratch_folder('clip') as folder:\n"
        "    (folder / 'half.mp4').touch()\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=False)
    (left,) = tmp_path.iterdir()
    with scratch_folder("metrics"):
        assert not left.exists()
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_living_process_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    script = (
        f"import tempfile; tempfile.tempdir = {str(tmp_path)!r}\n"
        "from core.process.scratch import scratch_folder\n"
        "with scratch_folder('clip') as folder:\n"
        "    print(folder, flush=True)\n"
        "    input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        theirs = Path(other.stdout.readline().strip())
        with scratch_folder("clip") as mine:
            assert sorted(tmp_path.iterdir()) == sorted([mine, theirs])
        other.communicate("\n")
    assert list(tmp_path.iterdir()) == []


def test_what_is_another_users_or_leads_elsewhere_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, elsewhere = tmp_path / "shared", tmp_path / "elsewhere"
    for folder in (shared, elsewhere):
        folder.mkdir()
    (elsewhere / "lock").touch()
    (shared / "kinora-link").symlink_to(elsewhere)
    (shared / "kinora-file").touch()
    (shared / "kinora-theirs").mkdir()
    (shared / "kinora-theirs" / "lock").symlink_to(elsewhere / "lock")
    before = sorted(shared.iterdir())
    monkeypatch.setattr(tempfile, "tempdir", str(shared))
    monkeypatch.setattr(os, "getuid", lambda: 12345)  # all of it is another user's
    with scratch_folder("clip"):
        pass
    assert sorted(shared.iterdir()) == before
    assert (elsewhere / "lock").exists()
