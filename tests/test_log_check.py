"""The check of the processes' logs, which every stack of the tests, chaos and fuzz ends with: it can fail."""

from pathlib import Path

import pytest

from harness.log_check import REDIS_FAULTS, crashes
from harness.servers import RedisServer
from harness.stack import Stack, restored

INFO = "2026-11-29T12:00:00.000001Z [info     ] attempt_ended                  [worker.run.runner] outcome=finished"
WARNING = INFO.replace("info   ", "warning")
CONSOLE = """2026-11-29T12:00:00.000000Z [error    ] attempt_crashed                [worker.run.runner] attempt=1
Traceback (most recent call last):
  File "worker/steps/clip.py", line 74, in _part_before
    (made,) = claim.needs
ValueError"""
JSON = '{"event": "attempt_crashed", "level": "error", "exception": "Traceback (most recent call last):\\nValueError"}'
RAW = "Traceback (most recent call last):\n  File \"a.py\", line 1\nModuleNotFoundError: No module named 'b'"
OF_RQ = "2026-11-29T12:00:00.000000Z [error    ] Worker 0a1b: found an unhandled exception, quitting... [rq.worker]\n"


@pytest.mark.parametrize(
    "crash",
    [CONSOLE, JSON, RAW, "Fatal Python error: Segmentation fault", "Timeout (0:00:17)!", OF_RQ],
    ids=["console", "json", "before any log", "in C", "stuck", "of a library"],
)
def test_a_crash_is_found_in_either_format_and_among_other_lines(crash: str) -> None:
    assert crashes(f"{INFO}\n{crash}\n{WARNING}") == [crash.strip()]


def test_what_is_announced_is_passed_over_and_nothing_else() -> None:
    assert crashes(f"{CONSOLE}\n\n{RAW}\n{INFO}\n{JSON}", ["attempt_crashed"]) == []
    assert crashes(f"{CONSOLE}\n{RAW}\n{INFO}\n{JSON}", ["attempt_crashed"]) == [RAW]
    assert crashes(f"{INFO}\n{CONSOLE}", ["lease_not_renewed"]) == [CONSOLE]
    assert crashes(f"{INFO}\n{WARNING}") == []


def test_an_error_of_redis_explains_what_rq_says_and_no_other_does() -> None:
    ours, redis = f"{OF_RQ}{RAW}", f"{OF_RQ}Traceback (most recent call last):\nredis.exceptions.ReadOnlyError"
    assert crashes(f"{ours}\n{redis}", REDIS_FAULTS) == [ours]


def test_a_process_that_ends_by_itself_is_a_crash(tmp_path: Path, redis_server: RedisServer) -> None:
    with Stack(tmp_path, redis_server) as stack:
        stack.start("nobody", "keeper.nowhere")
        stack.processes["nobody"].wait(30)
        with pytest.raises(AssertionError, match="nobody ended with 1"):
            stack.require_no_crash()
        stack.announced.add("nobody ended with 1")


def test_a_shared_stack_is_asked_after_each_test_before_its_dead_are_replaced(
    tmp_path: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    undone: list[Stack] = []
    monkeypatch.setattr(Stack, "restore", lambda stack: undone.append(stack))
    with Stack(tmp_path, redis_server) as stack:

        def shares_it() -> None:
            with restored(stack):
                stack.start("nobody", "keeper.nowhere")
                stack.processes["nobody"].wait(30)

        with pytest.raises(AssertionError, match="nobody ended with 1"):
            shares_it()
        assert undone == [stack]
        stack.announced.add("nobody ended with 1")
