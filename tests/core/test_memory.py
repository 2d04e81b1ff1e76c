"""Memory that is given back to the system once it is free."""

import subprocess
import sys
from pathlib import Path

import pytest

from harness.servers import free_port
from harness.stack import ROOT

# The first large free raises glibc's own bound; then what is small and lives on lies above what is large.
MEASURE = """
import psutil
from core.process.memory import give_memory_back
{first}
process, size = psutil.Process(), 20_000_000
del_soon = b"x" * size
del del_soon
before = process.memory_info().rss
large = [b"x" * size for _ in range(3)]
small = [bytes(1000) for _ in range(100)]
del large
print(process.memory_info().rss - before)
"""


def left(program: str, **settings: str) -> int:
    """Bytes that are still there after large ones were freed."""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, cwd=ROOT, env=settings)
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's")
def test_what_is_large_goes_back_to_the_system_when_it_is_free() -> None:
    assert left(MEASURE.format(first="")) > 10_000_000, "the C library does so by itself: core/process/memory.py can go"
    assert left(MEASURE.format(first="give_memory_back()")) < 2_000_000


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's")
def test_the_api_server_does_so(tmp_path: Path) -> None:
    measure = f"lambda *_, **__: exec({MEASURE.format(first='')!r}, {{}})"
    program = f"import uvicorn, app.__main__; uvicorn.run = {measure}; app.__main__.main()"
    assert left(program, DATA_DIR=str(tmp_path), API_PORT=str(free_port())) < 2_000_000
