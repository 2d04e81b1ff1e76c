"""The same contract with the first version of OpenAI's client that has `videos`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.stack import ROOT

OLDEST = "2.2.0"
# What it needs beside what the newest one does; the rest is there. With its own dependencies it would bring a second
# pydantic, which the service does not run with.
ALSO = "distro==1.9.0"


@pytest.fixture
def installed(pytestconfig: pytest.Config) -> Path:
    """A folder with that version, kept between runs."""
    folder = pytestconfig.cache.mkdir(f"openai-{OLDEST}")
    if not (folder / f"openai-{OLDEST}.dist-info").exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "--upgrade", "--target", str(folder), f"openai=={OLDEST}", ALSO], check=True)
    return folder


def test_the_oldest_client_that_makes_videos_is_served_too(installed: Path) -> None:
    environment = os.environ | {"PYTHONPATH": f"{installed}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    version = subprocess.run(
        [sys.executable, "-c", "import openai; print(openai.__version__)"],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    assert version.stdout.strip() == OLDEST
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/clients/test_openai.py"],
        cwd=ROOT,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "2 skipped" in ended.stdout  # edits and extensions came later
