"""A worker that is told to stop before it has begun to work."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from core.config.settings import Settings
from core.ledger.moves import Ledger
from harness.stack import ROOT

# The signal comes in the midst of what a library does, whose cleaning up raises an error of its own.
TOLD_TO_STOP = """
import os, signal, time
from worker import main
from worker.engines.host import EngineHost

def interrupted(*_):
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)
    finally:
        raise ValueError

PLACE = interrupted
main.main()
"""


@pytest.mark.parametrize("place", ["main.wait_for_ledger", "main.Presence.start", "EngineHost.preload"])
def test_a_worker_that_is_told_to_stop_as_it_starts_leaves_nothing_and_ends_with_0(
    settings: Settings, place: str, tmp_path: Path
) -> None:
    (scratch := tmp_path / "scratch").mkdir()
    given = {"DATA_DIR": str(settings.data_dir), "REDIS_PORT": str(settings.redis_port), "TMPDIR": str(scratch)}
    told = subprocess.run(
        [sys.executable, "-c", TOLD_TO_STOP.replace("PLACE", place), "--queue", "cpu"],
        cwd=ROOT,
        env=os.environ | given,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (told.returncode, "process_crashed" in told.stderr) == (0, False), told.stderr
    ledger = Ledger(settings.resolved_database_url)
    assert not any(worker.alive for worker in ledger.workers())
    ledger.close()
    assert list(scratch.glob("kinora-*")) == []
