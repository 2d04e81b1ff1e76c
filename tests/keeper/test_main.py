"""How the keeper's process ends."""

import subprocess
import sys
from pathlib import Path

from harness.servers import free_port
from harness.stack import ROOT

SLOW_TICK = """
import os, signal, threading
import keeper.main

def tick(self):
    others = [thread for thread in threading.enumerate() if thread.name in ("deliverer", "tidying")]
    os.kill(os.getpid(), signal.SIGTERM)
    for thread in others:
        thread.join(30)
    assert len(others) == 2 and not any(thread.is_alive() for thread in others)

keeper.main.Keeper.tick = tick
keeper.main.main()
"""


def test_a_keeper_that_is_told_to_stop_while_it_is_slow_leaves_in_order(tmp_path: Path) -> None:
    """Its threads end before the tick does that it is at, and have not died."""
    environment = {"DATA_DIR": str(tmp_path), "REDIS_PORT": str(free_port())}
    command = [sys.executable, "-c", SLOW_TICK]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, "a thread of the keeper died" in done.stderr) == (0, False), done.stderr
