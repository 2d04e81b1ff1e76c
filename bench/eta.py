"""How right the ETA is that a caller gets with the 202: clips of several sizes in bursts, one worker and two.

    python -m bench.eta

Ten clips run first, so that there is something to go by. Then each ETA is compared with what came true by the ledger's
clock. Two workers get a core each, as two GPUs would be; and once they fight for all cores, where each step's time
depends on whether the other works. The client and the service run on the same cores.
"""

import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

import psutil
import sqlalchemy as sa

from bench.service import PICTURE
from core.db.tables import tasks
from core.ledger.moves import Ledger
from harness.report import machine, print_table, write
from harness.servers import wait_until
from harness.stack import Stack, running_stack

SIZES = [
    {"width": 320, "height": 192, "num_frames": 25},
    {"width": 1024, "height": 576, "num_frames": 25},
    {"width": 512, "height": 288, "num_frames": 100},
    {"width": 1024, "height": 576, "num_frames": 60},
]
FIRST, BURSTS, PER_BURST = 10, 8, 10
WITHIN = 0.25


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory(prefix="kinora-bench-") as folder, running_stack(Path(folder)) as stack:
        ledger = Ledger(f"sqlite:///{folder}/data/kinora.db")
        try:
            random = Random(1)
            ask(stack, random, FIRST)
            rows.append({"workers": "1"} | figures(stack, ledger, random))
            stack.start("worker-cpu-2", "worker", "--queue", "cpu")
            wait_until(lambda: len(stack.client.get("/health").json()["queues"]["cpu"]["workers"]) == 2, 30)
            for core, name in enumerate(("worker-cpu", "worker-cpu-2")):
                psutil.Process(stack.processes[name].pid).cpu_affinity([core])
            ask(stack, random, FIRST)
            rows.append({"workers": "2, a core each"} | figures(stack, ledger, random))
            for name in ("worker-cpu", "worker-cpu-2"):
                psutil.Process(stack.processes[name].pid).cpu_affinity([0, 1])
            ask(stack, random, FIRST)
            rows.append({"workers": "2, both on both cores"} | figures(stack, ledger, random))
        finally:
            ledger.close()
    print_table(rows)
    print(f"\nwritten to {write('eta', {'machine': machine('fastapi', 'rq'), 'figures': rows})}")


def ask(stack: Stack, random: Random, count: int) -> dict[str, float]:
    """Upload so many at once and wait for all. Returns the ETA of each by its task."""
    etas = {}
    for _ in range(count):
        size = random.choice(SIZES)
        response = stack.client.post("/generate", files={"file": PICTURE.read_bytes()}, data=size)
        etas[response.json()["task_id"]] = response.json()["eta_seconds"]
        time.sleep(random.uniform(0, 0.3))
    while {"finished"} != (seen := {stack.status(task_id)["status"] for task_id in etas}):
        assert "failed" not in seen
        time.sleep(0.5)  # seldom, for the client shares the cores
    return etas


def figures(stack: Stack, ledger: Ledger, random: Random) -> dict[str, Any]:
    etas: dict[str, float] = {}
    for _ in range(BURSTS):
        etas |= ask(stack, random, random.randint(1, PER_BURST))
    seconds = (tasks.c.finished_at - tasks.c.created_at).label("seconds")
    query = sa.select(tasks.c.task_id, seconds).where(tasks.c.task_id.in_(etas))
    with ledger.database.connect() as connection:
        took = {row.task_id: row.seconds for row in connection.execute(query)}
    off = sorted(abs(etas[task_id] / true - 1) for task_id, true in took.items())
    return {
        "tasks": len(off),
        "share within 25 %": sum(error <= WITHIN for error in off) / len(off),
        "median error": off[len(off) // 2],
        "error of the 90th of 100": off[int(0.9 * len(off))],
        "longest wait, s": max(took.values()),
    }


if __name__ == "__main__":
    main()
