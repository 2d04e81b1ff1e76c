"""A checkout is the same on every system."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout of git")
def test_a_clone_for_windows_has_the_same_bytes(tmp_path: Path) -> None:
    """Git for Windows sets core.autocrlf: a shell, a container or Redis that reads CRLF fails."""
    copies = {value: clone(tmp_path / value, value) for value in ("true", "false")}
    assert {name for name, data in copies["true"].items() if data != copies["false"][name]} == set()
    assert {name for name, data in copies["true"].items() if b"\r\n" in data and b"\0" not in data} == set()
    assert len(copies["true"]) > 400


def clone(folder: Path, autocrlf: str) -> dict[str, bytes]:
    """Return the files of a clone, by their paths."""
    command = ["git", "clone", "--quiet", "-c", f"core.autocrlf={autocrlf}", str(ROOT), str(folder)]
    subprocess.run(command, check=True)
    files = [path for path in folder.rglob("*") if path.is_file() and ".git" not in path.relative_to(folder).parts]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
