"""A copy of the working tree, in which the near tests are run with a fault and without one."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from mutate.mutations import ROOT, Mutation

LEFT_OUT = shutil.ignore_patterns(".git", ".venv*", ".*_cache", "__pycache__", "artifacts")
# A fault that makes its test wait for ever is noticed too, but nobody wants to wait for that.
LIMIT_SECONDS = 120.0
TESTS_PASSED, TESTS_FAILED = 0, 1  # pytest's exit codes; any other says that it could not run them
# A file that changes twice within a second must not be taken for what was compiled of it before.
ENVIRONMENT = {"PYTHONDONTWRITEBYTECODE": "1"}
RED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)


class Verdict(StrEnum):
    NOTICED = "noticed"
    NOT_NOTICED = "not noticed"
    NOT_RUN = "tests not run"


@dataclass(frozen=True)
class Trial:
    verdict: Verdict
    seconds: float
    said: str
    """The test that turned red, or why none was run."""


@contextmanager
def copied_tree() -> Iterator[Path]:
    """The working tree again in a temporary folder: whatever ends this process, the tree itself is as it was."""
    with tempfile.TemporaryDirectory(prefix="kinora-mutate-") as folder:
        yield Path(shutil.copytree(ROOT, Path(folder) / "tree", ignore=LEFT_OUT))


def tried(mutation: Mutation, tree: Path) -> Trial:
    """What the near tests say with the fault in `tree`, which is as before afterwards. Raises DoesNotApply."""
    path = tree / mutation.file
    whole = path.read_text()
    path.write_text(mutation.applied(tree))
    try:
        return run_tests(mutation.tests, tree)
    finally:
        path.write_text(whole)


def run_tests(tests: Sequence[str], tree: Path, seconds: float = LIMIT_SECONDS) -> Trial:
    """Run them in `tree` until the first turns red."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    begun = time.perf_counter()
    with subprocess.Popen(
        command,
        cwd=tree,
        env=os.environ | ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            return Trial(Verdict.NOTICED, time.perf_counter() - begun, f"nothing within {seconds:g} s")
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # and the servers that it started
    took = time.perf_counter() - begun
    if process.returncode == TESTS_PASSED:
        return Trial(Verdict.NOT_NOTICED, took, "")
    if process.returncode == TESTS_FAILED and (red := RED.search(output)):
        return Trial(Verdict.NOTICED, took, red[1])
    return Trial(Verdict.NOT_RUN, took, output.strip()[-2000:])
