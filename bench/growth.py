"""What a long life costs: a ledger of 100 tasks and of 100,000, on SQLite and PostgreSQL, and a worker's memory.

    python -m bench.growth

Times are medians in milliseconds. The memory is that of one real worker after 100 tasks and after 1,000.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy as sa

from bench.service import PICTURE, SMALL
from core.db.tables import attempts, events, now, steps, tasks
from core.ids import new_id
from core.ledger.moves import Ledger
from core.status import Status
from core.task import NewStep, NewTask
from harness.report import machine, print_table, write
from harness.servers import PostgresServer
from harness.stack import running_stack

FEW, MANY, RUNS, AT_ONCE = 100, 100_000, 200, 5_000
WAITING = 1000
FIRST_TASKS, LAST_TASKS = 100, 1000
KINDS = ("clip", "join", "smooth")
"""Of which a worker asks."""


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory(prefix="kinora-bench-") as folder, PostgresServer() as postgres:
        urls = {
            "SQLite": f"sqlite:///{folder}/kinora.db",
            "PostgreSQL": postgres.url.replace("postgresql:", "postgresql+psycopg:"),
        }
        for database, url in urls.items():
            ledger = Ledger(url)
            ledger.migrate()
            fill(ledger, FEW)
            few = measure(ledger)
            fill(ledger, MANY - FEW)
            many = measure(ledger)
            rows += [
                {"database": database, "what": name, f"{FEW} tasks, ms": few[name], f"{MANY:,} tasks, ms": many[name]}
                for name in few
            ]
            ledger.close()
    print_table(rows)
    worker = memory()
    print()
    print_table([worker])
    where = machine("sqlalchemy", "psycopg", "rq")
    print(f"\nwritten to {write('growth', {'machine': where, 'ledger': rows, 'worker': worker})}")


def fill(ledger: Ledger, count: int) -> None:
    """Finished tasks with all that a real one leaves in the ledger."""
    for begun in range(0, count, AT_ONCE):
        ids = [(new_id(), new_id()) for _ in range(min(AT_ONCE, count - begun))]
        common = {"status": Status.FINISHED, "started_at": now(), "finished_at": now()}
        task = common | {"engine": "preview", "params": {}}
        task |= {"warnings": [], "created_at": now(), "receipt": {}}
        step = common | {"position": 0, "kind": "clip", "queue": "cpu", "attempt": 1, "params": {}, "waits_for": 0}
        step |= {"progress": 100, "ready_at": now()}
        attempt = {"attempt": 1, "worker_id": "w", "started_at": now(), "ended_at": now(), "outcome": "finished"}
        with ledger.database.begin() as tx:
            tx.execute(tasks.insert().values(task), [{"task_id": task_id, "result_step": s} for task_id, s in ids])
            tx.execute(steps.insert().values(step), [{"step_id": s, "task_id": task_id} for task_id, s in ids])
            tx.execute(attempts.insert().values(attempt), [{"step_id": s} for _, s in ids])
            for kind in (Status.QUEUED, Status.STARTED, Status.FINISHED):
                rows = [{"task_id": task_id} for task_id, _ in ids]
                tx.execute(events.insert().values(kind=kind, created_at=now()), rows)
    with ledger.database.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("ANALYZE"))


def measure(ledger: Ledger) -> dict[str, float]:
    """Each call as the service makes it."""
    page = ledger.tasks(status=None, after=None, limit=50)

    def accept() -> None:
        ledger.create(new_task("cpu"))

    def claim_and_finish() -> None:
        claim = ledger.claim_next("cpu", "w", 60, kinds=KINDS)
        assert claim
        ledger.finish(claim, [], {}, {})

    def keep() -> None:
        ledger.held_leases()
        ledger.steps_to_wake(2.0)
        ledger.expired_tasks(7 * 24 * 3600.0)
        ledger.deliveries.due(8)

    return {
        "status": median_ms(lambda: ledger.task_with_steps(page[-1].task_id)),
        "list, first page": median_ms(lambda: ledger.tasks(status=None, after=None, limit=50)),
        "list, a page of the finished": median_ms(
            lambda: ledger.tasks(status=Status.FINISHED, after=page[-1].task_id, limit=50)
        ),
        "accept": median_ms(accept),
        "claim and finish": median_ms(claim_and_finish),
        f"claim with {WAITING:,} waiting, 95th of 100": claim_p95(ledger),
        "a round of the keeper": median_ms(keep),
        "metrics": median_ms(lambda: (ledger.waiting(), ledger.counters(), ledger.deliveries.waiting())),
    }


def new_task(queue: str) -> NewTask:
    step = NewStep("clip", queue, {}, size="64x64x2", work=8192.0, engine="preview")
    return NewTask(new_id(), "", "preview", {}, [], [], [step])


def claim_p95(ledger: Ledger) -> float:
    """Milliseconds that 95 of 100 claims take, of a queue in which so many tasks wait all the time."""
    for _ in range(WAITING):
        ledger.create(new_task("gpu"))
    seconds = []
    for _ in range(RUNS):
        begun = time.perf_counter()
        claim = ledger.claim_next("gpu", "w", 60, ["svd-xt"], 30.0, KINDS)
        seconds.append(time.perf_counter() - begun)
        assert claim
        ledger.give_back(claim)
    with ledger.database.begin() as tx:
        tx.execute(tasks.delete().where(tasks.c.status != Status.FINISHED))
    return 1000 * statistics.quantiles(seconds, n=100)[94]


def median_ms(what: Callable[[], Any]) -> float:
    seconds = []
    for _ in range(RUNS):
        begun = time.perf_counter()
        what()
        seconds.append(time.perf_counter() - begun)
    return 1000 * statistics.median(seconds)


def memory() -> dict[str, float]:
    """Resident MiB of one worker, with tasks that run one after the other."""
    with tempfile.TemporaryDirectory(prefix="kinora-bench-") as folder, running_stack(Path(folder)) as stack:
        worker, resident = psutil.Process(stack.processes["worker-cpu"].pid), {}
        for done in range(1, LAST_TASKS + 1):
            stack.finish(stack.upload(PICTURE, **SMALL))
            if done in (FIRST_TASKS, LAST_TASKS):
                resident[done] = worker.memory_info().rss / 2**20
    first, last = resident[FIRST_TASKS], resident[LAST_TASKS]
    return {
        f"after {FIRST_TASKS} tasks, MiB": first,
        f"after {LAST_TASKS} tasks, MiB": last,
        "growth, %": 100 * (last / first - 1),
    }


if __name__ == "__main__":
    main()
