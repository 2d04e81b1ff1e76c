"""No log holds what a caller sent, whatever crashes with it in hand."""

import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from core.process.logs import without_values
from harness.servers import RedisServer
from harness.stack import ROOT
from tests.core import crashing

# Each told by another path to the log.
TOLD = [
    "request_failed",  # a route
    "Exception in ASGI application",  # uvicorn, of an answer that broke off
    "attempt_crashed",
    "callback_failed",
    "duty_failed",
    "thread_crashed",
    "python_warning",
    "library_spoke",
    "process_crashed",
]


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_crash_is_told_by_its_place_and_its_type_and_by_nothing_that_a_caller_sent(
    tmp_path: Path, redis_server: RedisServer, log_format: str
) -> None:
    command = [sys.executable, "-m", crashing.__name__, str(tmp_path), str(redis_server.port), log_format]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    said = ended.stdout + ended.stderr
    assert ended.returncode == 1, said
    assert [event for event in TOLD if event not in said] == []
    assert said.count("ValueError") >= 6
    assert "crashing.py" in said
    quoted = (tmp_path / "quoted").read_text()
    for private in (crashing.PROMPT, crashing.SEED, crashing.TOKEN):
        assert private in quoted, "no crash had it in hand"
        assert private not in said


def test_an_error_of_tls_has_numbers_of_its_own() -> None:
    assert without_values(ssl.SSLError(1, "a-host")).splitlines()[-1] == "ssl.SSLError"


def test_of_a_long_chain_of_errors_the_last_ones_are_told() -> None:
    error: BaseException | None = None
    for number in range(3000):
        error, before = KeyError(number), error
        error.__context__ = before
    assert 10 < without_values(error).count("KeyError") < 100


def test_groups_that_led_to_each_other_are_told_once() -> None:
    first, second = KeyError("a"), KeyError("b")
    one, other = ExceptionGroup("one", [first]), ExceptionGroup("other", [second])
    first.__context__, second.__context__ = other, one
    assert without_values(one).count("ExceptionGroup") == 2


def test_a_traceback_names_what_led_to_an_error_and_what_a_group_holds() -> None:
    try:
        try:
            raise OSError(28, "No space left on device", "a-file-of-a-users")
        except OSError as error:
            raise ExceptionGroup("a group", [KeyError("a-key"), error]) from error
    except ExceptionGroup as group:
        told = without_values(group)
    last_lines = [part.splitlines()[-1] for part in told.split("\n\n")]
    assert last_lines == ["OSError ENOSPC", "ExceptionGroup", "KeyError"]
    assert "a-key" not in told.replace('KeyError("a-key")', "")
