"""What the service itself costs, on the machine at hand: from upload to start, from end to visible, clips a minute.

    python -m bench.service

Starts the whole stack with a real Redis as the tests do. The client shares the cores with the service, so requests a
second are a lower bound. Clips are the preview engine's at its defaults (25 frames of 1024×576).

Then ten clients keep one worker busy (bench/busy.py).
"""

import http.client
import itertools
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import sqlalchemy as sa

from bench.busy import busy
from core.db.tables import steps, tasks
from core.ledger.moves import Ledger
from harness.pictures import SAMPLES
from harness.report import machine, print_table, spread, write
from harness.stack import Stack, running_stack
from worker.media.mp4 import encode_mp4

PICTURE = SAMPLES / "cat.jpg"
SMALL = {"width": 64, "height": 64, "num_frames": 2}
UPLOADS, CLIPS, ENCODES, STATUS_SECONDS, STATUS_CLIENTS = 40, 20, 7, 5.0, 4


def main() -> None:
    with (
        tempfile.TemporaryDirectory(prefix="kinora-bench-") as folder,
        running_stack(Path(folder)) as stack,
    ):
        ledger = Ledger(f"sqlite:///{folder}/data/kinora.db")
        try:
            figures = latencies(stack, ledger)
            figures["status_requests_a_second"] = status_rate(stack)
            figures["preview_clips_a_minute_1_worker"] = clips_a_minute(stack)
            figures["memory_mib"] = memory(stack)
            stack.start("worker-cpu-2", "worker", "--queue", "cpu")
            while len(stack.client.get("/health").json()["queues"]["cpu"]["workers"]) < 2:
                time.sleep(0.1)
            figures["preview_clips_a_minute_2_workers"] = clips_a_minute(stack)
        finally:
            ledger.close()
    figures["with_keys"] = with_keys()
    figures["busy"] = busy(PICTURE)
    figures["encode_seconds"] = encode_seconds()
    figures["image_mb"] = image_sizes()
    where = machine("fastapi", "uvicorn", "rq", "redis", "sqlalchemy", "av", "pillow")
    print(f"{where['cpu']}, {where['cores']} cores\n")
    print_table([{"figure": name, "value": value} for name, value in flat(figures)])
    print(f"\nwritten to {write('service', {'machine': where, 'figures': figures})}")


def with_keys() -> dict[str, Any]:
    """Measure the same where each caller shows a key, whose requests and tasks are counted."""
    with tempfile.TemporaryDirectory(prefix="kinora-bench-") as folder:
        ledger = Ledger(f"sqlite:///{folder}/data/kinora.db")
        ledger.migrate()
        try:
            _, key = ledger.keys.create("bench")  # without one the API server does not start
            with running_stack(Path(folder), AUTH="keys", RATE_LIMIT="1000000/minute") as stack:
                stack.client.headers["Authorization"] = f"Bearer {key}"
                return latencies(stack, ledger) | {"status_requests_a_second": status_rate(stack)}
        finally:
            ledger.close()


def latencies(stack: Stack, ledger: Ledger) -> dict[str, Any]:
    """Milliseconds on an idle service, one task at a time; all clocks are this machine's."""
    to_start, to_visible = [], []
    # What the client has to do before it can send is not the service's.
    request = stack.client.build_request("POST", "/generate", files={"file": PICTURE.read_bytes()}, data=SMALL)
    body, headers = request.read(), dict(request.headers)
    connection = http.client.HTTPConnection("127.0.0.1", stack.port)
    for number in range(2 * UPLOADS):
        sent = time.time()
        connection.request("POST", "/generate", body, headers)
        task_id = json.loads(connection.getresponse().read())["task_id"]
        if number % 2:
            # Asked all the time, a status takes the cores away from the start, so each figure has its own uploads.
            while (status := stack.status(task_id)["status"]) != "finished":
                assert status != "failed"
                time.sleep(0.001)
            to_visible.append(1000 * (time.time() - moments(ledger, task_id)[1]))
        else:
            time.sleep(0.5)
            to_start.append(1000 * (moments(ledger, task_id)[0] - sent))
    return {
        "post_to_start_ms": spread(to_start),
        "finish_to_visible_ms": spread(to_visible),
    }


def moments(ledger: Ledger, task_id: str) -> tuple[float, float]:
    """When the task's step was claimed and when the task was finished, in seconds since the epoch."""
    both = sa.select(steps.c.started_at, tasks.c.finished_at).join(tasks, tasks.c.task_id == steps.c.task_id)
    with ledger.database.connect() as connection:
        started_at, finished_at = connection.execute(both.where(tasks.c.task_id == task_id)).one()
    return started_at, finished_at


def status_rate(stack: Stack) -> float:
    """Answered requests a second from a few clients that keep their connections."""
    task_id = stack.upload(PICTURE, **SMALL)
    stack.finish(task_id)
    counts: list[int] = []
    headers = dict(stack.client.headers)
    give_up = time.monotonic() + STATUS_SECONDS

    def ask() -> None:
        connection, count = http.client.HTTPConnection("127.0.0.1", stack.port), 0
        while time.monotonic() < give_up:
            connection.request("GET", f"/status/{task_id}", headers=headers)
            response = connection.getresponse()
            response.read()
            count += response.status == 200
        counts.append(count)

    clients = [threading.Thread(target=ask) for _ in range(STATUS_CLIENTS)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    return sum(counts) / STATUS_SECONDS


def clips_a_minute(stack: Stack) -> float:
    begun = time.perf_counter()
    waiting = [stack.upload(PICTURE) for _ in range(CLIPS)]
    for task_id in waiting:
        stack.finish(task_id, timeout=300)
    return CLIPS / (time.perf_counter() - begun) * 60


def memory(stack: Stack) -> dict[str, float]:
    """Memory that each process has to itself, after it has worked."""
    processes = {name: process.pid for name, process in stack.processes.items()}
    processes["redis"] = stack.redis.process.pid
    return {name: psutil.Process(pid).memory_full_info().uss / 2**20 for name, pid in processes.items()}


def encode_seconds() -> float:
    """25 frames of 1024×576 that move like a photograph under a camera, at the default quality; median."""
    noise = np.random.default_rng(0).integers(0, 256, (36, 66, 3), np.uint8).repeat(16, 0).repeat(16, 1)
    frames = np.stack([noise[:576, i : i + 1024] for i in range(25)])
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(ENCODES):
            begun = time.perf_counter()
            encode_mp4(frames, 7, 18, Path(folder) / "clip.mp4")
            seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds)


def image_sizes() -> dict[str, float | None]:
    """MB of the built images, where Docker or what COMPOSE names has them."""
    compose = os.environ.get("COMPOSE")
    command = [compose, "podman"] if compose else ["docker"]
    sizes: dict[str, float | None] = {"api": None, "worker": None}
    if shutil.which(command[0]):
        # Compose puts a dash between project and service, podman-compose an underscore.
        for name, separator in itertools.product(sizes, "-_"):
            inspect = [*command, "image", "inspect", "--format", "{{.Size}}", f"kinora{separator}{name}"]
            done = subprocess.run(inspect, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                sizes[name] = int(done.stdout.split()[-1]) / 1e6
    return sizes


def flat(figures: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for name, value in figures.items():
        rows += flat(value, f"{prefix}{name} ") if isinstance(value, dict) else [(f"{prefix}{name}", value)]
    return rows


if __name__ == "__main__":
    main()
