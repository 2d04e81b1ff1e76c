"""Memory that is given back to the system once it is free."""

import subprocess
import sys

import pytest

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


def left(first: str) -> int:
    """Bytes that are still there after large ones were freed."""
    command = [sys.executable, "-c", MEASURE.format(first=first)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's")
def test_what_is_large_goes_back_to_the_system_when_it_is_free() -> None:
    assert left("") > 10_000_000, "the C library does so by itself: core/process/memory.py can go"
    assert left("give_memory_back()") < 2_000_000
