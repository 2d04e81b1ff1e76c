import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from harness.servers import wait_until
from harness.stack import ROOT, running_stack
from worker.attempt import Attempt, Stopped
from worker.run.watchdog import EXIT_STUCK, LastResort, Watchdog


def test_an_attempt_out_of_time_is_asked_to_stop_first(monkeypatch: pytest.MonkeyPatch) -> None:
    attempt, left = Attempt(), []
    with Watchdog(attempt, 0.05, LastResort(), left.append):
        wait_until(lambda: attempt.out_of_time, what="the limit")
        with pytest.raises(Stopped):
            attempt.check()
    assert left == []


def test_a_process_stuck_beyond_the_limit_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.run.watchdog.CHECK_POINT_SECONDS", 0.1)
    ended, codes = threading.Event(), []

    def leave(code: int) -> None:
        codes.append(code)
        ended.set()

    with Watchdog(Attempt(), 0.05, LastResort(), leave):
        assert ended.wait(5)
    assert codes == [EXIT_STUCK]


def test_an_attempt_in_time_is_left_alone() -> None:
    attempt, left = Attempt(), []
    with Watchdog(attempt, 0.1, LastResort(), left.append):
        pass
    time.sleep(0.2)
    attempt.check()
    assert left == []


# Of two attempts the one that began first is stuck in C, holding Python's lock, while the other runs still or after its
# end.
STUCK_BESIDE_ANOTHER = """
import ctypes
from worker.run import watchdog
from worker.attempt import Attempt
watchdog.CHECK_POINT_SECONDS = watchdog.LAST_RESORT_SECONDS = 0.2
last_resort = watchdog.LastResort()
with watchdog.Watchdog(Attempt(), 0.2, last_resort):
    with watchdog.Watchdog(Attempt(), 60, last_resort):
        INSIDE
    ctypes.PyDLL(None).sleep(60)
"""


@pytest.mark.parametrize("inside", ["pass", "ctypes.PyDLL(None).sleep(60)"], ids=["after its end", "while it runs"])
def test_the_last_resort_stands_for_the_attempt_that_is_due_first_until_its_own_end(inside: str) -> None:
    stuck = [sys.executable, "-c", STUCK_BESIDE_ANOTHER.replace("INSIDE", inside)]
    assert subprocess.run(stuck, cwd=ROOT, stderr=subprocess.DEVNULL, timeout=50, check=False).returncode == 1


# A worker whose engine hangs in C, where Python cannot interrupt it.
STUCK = """
import ctypes
from worker import main
from worker.run import watchdog
from worker.engines.camera import Camera
watchdog.CHECK_POINT_SECONDS = watchdog.LAST_RESORT_SECONDS = 0.5
Camera.render = lambda *_: ctypes.LIBRARY(None).sleep(60)
main.main()
"""


@pytest.mark.parametrize(
    ("library", "code"), [("CDLL", EXIT_STUCK), ("PyDLL", 1)], ids=["without Python's lock", "holding Python's lock"]
)
def test_a_worker_stuck_in_c_ends_itself_and_the_step_runs_elsewhere(tmp_path: Path, library: str, code: int) -> None:
    with running_stack(tmp_path, STEP_TIME_LIMIT="2", LEASE_SECONDS="2") as stack:
        stack.kill("worker-cpu")
        command = [sys.executable, "-c", STUCK.replace("LIBRARY", library), "--queue", "cpu"]
        stuck = subprocess.Popen(command, cwd=ROOT, env=stack.environment, stderr=subprocess.DEVNULL)
        task_id = stack.upload(ROOT / "samples" / "cat.jpg", num_frames=2)
        assert stuck.wait(30) == code
        stack.start("worker-cpu", "worker", "--queue", "cpu")
        assert stack.wait_for(task_id)["status"] == "finished"
