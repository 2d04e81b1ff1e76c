"""Faults into the running service, from a seeded list, and then the question whether every promise was kept.

    python -m chaos [--faults 100] [--seed 1] [--postgres]

Real processes, a real Redis, SQLite or a real PostgreSQL. Prints what was done and what came of it, writes
bench/results/, and ends with 1 where anything was lost, stuck or done twice, where a task failed that was not made to,
and where a process crashed by itself. What it does not look at stands in docs/reliability.md.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Any

import psutil

from chaos.faults import FAULTS, POSTGRES_FAULTS, WEIGHTS
from chaos.load import Accepted, Load
from chaos.reconcile import Verdict, reconcile
from chaos.service import LEASE_SECONDS, WORKERS, Service, Trouble
from core.callbacks.deliveries import DeliveryStatus
from core.config import Settings
from core.ledger.moves import Ledger
from core.queue import StepQueue
from core.storage import Storage
from core.task import Status
from harness.receiver import receiving
from harness.report import machine, print_table, write
from harness.servers import PostgresServer, RedisServer, wait_until
from keeper.main import Keeper

# What it takes a killed process to start again, on two cores that are busy.
RECOVERY_SECONDS = 4.0
# After the last fault everything must have ended by then. A callback whose keeper died waits for half a minute.
SETTLE_SECONDS = 120.0
# After a process has ended, what it started must have too.
END_SECONDS = 10.0
# A fault that did not come about in so many tries never will: its point is where nobody comes any more.
TRIES_IN_VAIN = 5


def run(folder: Path, faults: int, seed: int, postgres: bool, quiet: bool = False) -> tuple[dict[str, Any], Verdict]:
    """Returns what was done, with its figures, and the verdict."""
    random, done, tried = Random(seed), Counter[str](), Counter[str]()
    kinds = FAULTS | (POSTGRES_FAULTS if postgres else {})
    to_come = in_turns([name for name in kinds for _ in range(WEIGHTS.get(name, 1))], random)
    begun = time.monotonic()
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer())
        server = stack.enter_context(PostgresServer()) if postgres else None
        service = stack.enter_context(Service(folder, redis, server))
        ledger = Ledger(Settings(_env_file=None, **_stores(service)).resolved_database_url)
        stack.callback(ledger.close)
        storage = Storage(f"file://{folder}/data/storage")
        receiver = stack.enter_context(receiving(ledger.endpoints.secret(""), port=service.receiver_port))
        load = Load(service, ledger, storage, receiver, seed)
        load.start()
        try:
            while done.total() < faults:
                name, at = next(to_come), time.time()
                tried[name] += 1
                if kinds[name](service, random):
                    done[name] += 1
                    if not name.startswith("worker"):
                        service.troubles.append(Trouble(name, at, time.time() + RECOVERY_SECONDS))
                    if not quiet:
                        print(f"\r{done.total()} faults, {len(load.accepted.tasks)} tasks ", end="", file=sys.stderr)
                time.sleep(random.uniform(0.2, 1.5))
        finally:
            load.stop()
        settle(service, ledger)
        sweep(ledger, storage, service)
        verdict = reconcile(service, ledger, load.accepted, receiver)
        processes = [psutil.Process(process.pid) for process in service.processes.values()]
        processes += [child for process in processes for child in process.children(recursive=True)]
        if any(service.leave_in_order()):
            verdict.leftovers.append("a process that did not leave in order")
        verdict.crashes = service.crashes()
        in_vain = [name for name, times in tried.items() if times >= TRIES_IN_VAIN and not done[name]]
        verdict.unexpected += [f"the fault {name!r} never came about in {tried[name]} tries" for name in in_vain]
        left = {path.name for path in service.temporary.iterdir()} - {service.beat.name}
        verdict.leftovers += [f"the temporary file {name}" for name in sorted(left)]
    _, left_running = psutil.wait_procs(processes, END_SECONDS)  # a sandbox ends once it sees that its API server has
    verdict.leftovers += [f"the process {process.pid} still runs" for process in left_running]
    minutes = (time.monotonic() - begun) / 60
    return figures(done, service, load.accepted, len(receiver.received), verdict) | {"minutes": minutes}, verdict


def figures(
    done: Counter[str], service: Service, accepted: Accepted, received: int, verdict: Verdict
) -> dict[str, Any]:
    seconds = [takeover.seconds for takeover in verdict.takeovers]
    undisturbed = [takeover.seconds for takeover in verdict.takeovers if not takeover.overlaps(service.troubles)]
    return {
        "faults": done.total(),
        "faults by kind": dict(sorted(done.items())),
        "restarts of processes": len(service.ends),
        "tasks": len(accepted.tasks),
        "of them graphs of 30 steps": len(accepted.graphs),
        **{f"{status} tasks": verdict.statuses[status] for status in (Status.FINISHED, Status.FAILED, Status.CANCELED)},
        "failed with": dict(verdict.errors),
        "requests that broke off or were refused, and repeated": accepted.broken + accepted.refused,
        "callbacks received": received,
        "lost": len(verdict.lost),
        "stuck": len(verdict.stuck),
        "double": len(verdict.double),
        "left over": len(verdict.leftovers),
        "unexpected answers": len(verdict.unexpected),
        "failed for no fault": len(verdict.unexplained),
        "crashes": len(verdict.crashes),
        "attempts lost": verdict.lost_attempts,
        "of them while their worker lived": verdict.lost_by_living,
        "takeovers": len(seconds),
        "median takeover, s": statistics.median(seconds) if seconds else None,
        "longest takeover, s": max(seconds, default=None),
        "takeovers while nothing else was broken": len(undisturbed),
        "longest of them, s": max(undisturbed, default=None),
        "lease, s": LEASE_SECONDS,
    }


def in_turns(names: list[str], random: Random) -> Iterator[str]:
    """All of them in a random order, again and again, so that a short run too has most kinds."""
    while True:
        yield from random.sample(names, len(names))


def settle(service: Service, ledger: Ledger) -> None:
    """Wait until every process listens to signals and nothing is under way any more; what still is after SETTLE_SECONDS
    is stuck."""

    def listening() -> bool:
        workers = {service.processes[name].pid for name in WORKERS}
        return workers <= {worker.pid for worker in ledger.workers()} and service.beat.exists()

    def at_rest() -> bool:
        under_way = [ledger.tasks(status=status, after=None, limit=1) for status in (Status.QUEUED, Status.STARTED)]
        return not any(under_way) and ledger.deliveries.waiting()[DeliveryStatus.PENDING] == 0

    service.wait_until_ready()
    wait_until(listening, SETTLE_SECONDS, "a start of every process")
    try:
        wait_until(at_rest, SETTLE_SECONDS, "the end of every task")
    except TimeoutError as error:
        print(error, file=sys.stderr)


def sweep(ledger: Ledger, storage: Storage, service: Service) -> None:
    """The keeper's own, an hour early."""
    settings = Settings(_env_file=None, **_stores(service))
    queue = StepQueue(settings)
    Keeper(settings, ledger, storage, queue).sweep(older_than=0.0)
    queue.close()


def _stores(service: Service) -> dict[str, Any]:
    names = {"data_dir": "DATA_DIR", "database_url": "DATABASE_URL", "redis_port": "REDIS_PORT"}
    return {name: service.environment[variable] for name, variable in names.items() if variable in service.environment}


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=__doc__)
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--postgres", action="store_true", help="PostgreSQL instead of SQLite")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kinora-chaos-", ignore_cleanup_errors=True) as folder:
        found, verdict = run(Path(folder), given.faults, given.seed, given.postgres)
        if verdict.broken:
            print(f"\nthe logs are in {keep(Path(folder))}", file=sys.stderr)
    print("\n")
    print_table([{"fault": name, "times": times} for name, times in found["faults by kind"].items()])
    print()
    plain = {name: value for name, value in found.items() if name != "faults by kind"}
    print_table([{"figure": name, "value": value} for name, value in plain.items()])
    for line in verdict.broken:
        print(line)
    database = "postgresql" if given.postgres else "sqlite"
    where = machine("redis", "sqlalchemy", "fastapi", "rq")
    results = {"command": f"scripts/chaos {' '.join(sys.argv[1:])}", "seed": given.seed, "machine": where}
    print(f"\nwritten to {write(f'chaos-{database}', results | {'figures': found})}")
    sys.exit(bool(verdict.broken))


def keep(folder: Path) -> Path:
    """The processes' logs, beyond the end of the run."""
    kept = Path(tempfile.mkdtemp(prefix="kinora-chaos-logs-"))
    for log in folder.glob("*.log"):
        (kept / log.name).write_bytes(log.read_bytes())
    return kept


if __name__ == "__main__":
    main()
