"""Memory that is given back to the system once it is free."""

import asyncio
import subprocess
import sys

import pytest
from fastapi.testclient import TestClient

from app import main
from app.main import create_app
from core.config.settings import Settings
from harness.stack import ROOT

# The first large free raises glibc's own bounds; then what is small and lives on lies above what is large.
MEASURE = """
import asyncio, psutil, time
from core.process import memory

def use():
    # In a thread, which has a heap of its own.
    del_soon = b"x" * 30_000_000
    del del_soon
    pairs = [(b"x" * {size}, bytes(5000)) for _ in range(60_000_000 // {size})]
    small = [small for _, small in pairs[:{kept}]]
    return small

async def measure():
    memory.GIVE_BACK_SECONDS = 0.01
    giving = asyncio.create_task(memory.giving_memory_back()) if {gives} else None
    await asyncio.sleep(0)
    process = psutil.Process()
    before = process.memory_info().rss
    small = await asyncio.to_thread(use)
    given_up = time.monotonic() + (20 if giving else 0)
    while (left := process.memory_info().rss - before) > 4_000_000 and time.monotonic() < given_up:
        await asyncio.sleep(0.01)
    print(left)

asyncio.run(measure())
"""


def left(size: int, kept: int, gives: bool) -> int:
    """Bytes that are still there after 60 MB were freed, in blocks of `size`, with something small behind `kept`."""
    command = [sys.executable, "-c", MEASURE.format(size=size, kept=kept, gives=gives)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, cwd=ROOT)
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's")
@pytest.mark.parametrize(("size", "kept"), [(200_000, 300), (200_000, 1), (20_000_000, 3)])
def test_what_is_free_goes_back_to_the_system(size: int, kept: int) -> None:
    assert left(size, kept, gives=False) > 10_000_000, "the C library does so by itself: core/process/memory.py can go"
    assert left(size, kept, gives=True) <= 4_000_000


def test_the_api_server_gives_it_back_from_its_start_to_its_end(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted = []

    async def giving() -> None:
        noted.append("begun")
        try:
            await asyncio.Event().wait()
        finally:
            noted.append("ended")

    monkeypatch.setattr(main, "giving_memory_back", giving)
    with TestClient(create_app(settings)) as client:
        client.get("/health/live")
        assert noted == ["begun"]
    assert noted == ["begun", "ended"]
