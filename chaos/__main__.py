"""Faults into the running service, from a seeded list, and then the question whether every promise was kept.

    python -m chaos [--faults 100] [--seed 1] [--postgres] [--resume]

Real processes, a real Redis, SQLite or a real PostgreSQL. Prints what was done and what came of it, writes
bench/results/, and ends with 1 where anything was lost, stuck, done twice or paid twice, where a task failed that was
not made to, and where a process crashed by itself. A run of many faults comes in parts, after each of which it may be
broken off: `--resume` goes on from there. What it does not look at stands in docs/reliability.md.
"""

import argparse
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
from chaos.graphs import WITH_NET_STEPS
from chaos.load import Accepted, Load
from chaos.parts import Part, broken, done_before, sizes, summed
from chaos.reconcile import Verdict, reconcile
from chaos.service import Service, Trouble
from core.callbacks.deliveries import DeliveryStatus
from core.config.settings import Settings
from core.ledger.moves import Ledger
from core.queue import StepQueue
from core.status import Status
from core.storage import Storage
from harness.provider import Provider
from harness.receiver import receiving
from harness.report import RESULTS, machine, print_table, write
from harness.servers import PostgresServer, RedisServer, wait_until
from keeper.main import Keeper

# What it takes a killed process to start again, on two cores that are busy.
RECOVERY_SECONDS = 4.0
# After the last fault everything must have ended by then. A callback whose keeper died waits for half a minute.
SETTLE_SECONDS = 120.0
# After a process has ended, what it started must have too.
END_SECONDS = 10.0
# How long a job of the provider takes.
WORK_SECONDS = 1.0


def run(folder: Path, faults: int, seed: int, postgres: bool, quiet: bool = False) -> tuple[Part, Verdict]:
    """Returns what was done, and the verdict."""
    random, done, tried = Random(seed), Counter[str](), Counter[str]()
    kinds = FAULTS | (POSTGRES_FAULTS if postgres else {})
    to_come = in_turns([name for name in kinds for _ in range(WEIGHTS.get(name, 1))], random)
    begun = time.monotonic()
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer())
        server = stack.enter_context(PostgresServer()) if postgres else None
        provider = Provider()
        provider.work_seconds = WORK_SECONDS
        stack.callback(provider.close)
        service = stack.enter_context(Service(folder, redis, server, provider))
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
                    if not name.startswith(("worker", "net worker")):
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
        left = {path.name for path in service.temporary.iterdir()}
        verdict.leftovers += [f"the temporary file {name}" for name in sorted(left)]
    _, left_running = psutil.wait_procs(processes, END_SECONDS)  # a sandbox ends once it sees that its API server has
    verdict.leftovers += [f"the process {process.pid} still runs" for process in left_running]
    minutes = (time.monotonic() - begun) / 60
    part = part_of(done, service, load.accepted, len(receiver.received), verdict)
    part["counts"] |= {"tries by kind": dict(tried), "minutes": minutes}
    return part, verdict


def part_of(done: Counter[str], service: Service, accepted: Accepted, received: int, verdict: Verdict) -> Part:
    undisturbed = [takeover for takeover in verdict.takeovers if not takeover.overlaps(service.troubles)]
    return {
        "counts": counts(done, service, accepted, received, verdict),
        "takeovers": [round(takeover.seconds, 2) for takeover in verdict.takeovers],
        "undisturbed takeovers": [round(takeover.seconds, 2) for takeover in undisturbed],
        "broken": verdict.broken,
    }


def counts(done: Counter[str], service: Service, accepted: Accepted, received: int, verdict: Verdict) -> dict[str, Any]:
    shapes = Counter(accepted.graphs.values())
    asked = service.provider.heard if service.provider else []
    return {
        "faults": done.total(),
        "faults by kind": dict(done),
        "restarts of processes": len(service.ends),
        "tasks": len(accepted.tasks),
        "of them graphs of 30 steps": shapes["wide"],
        "graphs with net steps": sum(shapes[shape] for shape in WITH_NET_STEPS),
        "of them graphs that plan themselves": shapes["planned"],
        "of them graphs with a step that fails": shapes["failing"],
        **{f"{status} tasks": verdict.statuses[status] for status in (Status.FINISHED, Status.FAILED, Status.CANCELED)},
        "failed with": dict(verdict.errors),
        "requests that broke off or were refused, and repeated": accepted.broken + accepted.refused,
        "callbacks received": received,
        "jobs that the provider took": len(asked),
        "lost": len(verdict.lost),
        "stuck": len(verdict.stuck),
        "double": len(verdict.double),
        "paid twice for a recorded handle": len(verdict.paid_twice),
        "paid twice, and not marked so": len(verdict.unmarked),
        "may have been paid twice, marked so": verdict.marked,
        "of them heard twice by the provider": verdict.heard_again,
        "left over": len(verdict.leftovers),
        "unexpected answers": len(verdict.unexpected),
        "failed for no fault": len(verdict.unexplained),
        "crashes": len(verdict.crashes),
        "attempts lost": verdict.lost_attempts,
        "of them to the provider": verdict.lost_to_provider,
        "of them to a ledger that was away": verdict.lost_to_ledger,
        "of them while nothing was done to their worker": len(verdict.lost_by_living),
    }


def in_turns(names: list[str], random: Random) -> Iterator[str]:
    """All of them in a random order, again and again, so that a short run too has most kinds."""
    while True:
        yield from random.sample(names, len(names))


def settle(service: Service, ledger: Ledger) -> None:
    """Wait until every process listens to signals and nothing is under way any more; what still is after SETTLE_SECONDS
    is stuck."""

    def listening() -> bool:
        workers = {service.processes[name].pid for name in service.workers}
        return workers <= {worker.pid for worker in ledger.workers()} and bool(service.signs_of_life())

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
    parser.add_argument("--resume", action="store_true", help="go on behind the parts that are done")
    given = parser.parse_args()
    name = f"chaos-{'postgresql' if given.postgres else 'sqlite'}"
    try:
        parts = done_before(RESULTS / f"{name}.json", given.faults, given.seed) if given.resume else []
    except ValueError as error:
        sys.exit(f"kinora: {error}")
    for number, faults in list(enumerate(sizes(given.faults)))[len(parts) :]:
        parts.append(run_part(faults, given.seed + number, given.postgres))
        where = machine("redis", "sqlalchemy", "fastapi", "rq")
        results = {"command": f"scripts/chaos {' '.join(sys.argv[1:])}", "seed": given.seed, "faults": given.faults}
        write(name, results | {"machine": where, "figures": summed(parts), "parts": parts}, RESULTS)
    show(parts)
    print(f"\nwritten to {RESULTS / f'{name}.json'}")
    sys.exit(bool(broken(parts)))


def run_part(faults: int, seed: int, postgres: bool) -> Part:
    with tempfile.TemporaryDirectory(prefix="kinora-chaos-", ignore_cleanup_errors=True) as folder:
        part, verdict = run(Path(folder), faults, seed, postgres)
        if verdict.broken:
            print(f"\nthe logs are in {keep(Path(folder))}", file=sys.stderr)
    for line in verdict.lost_by_living:
        print(f"\nlost for no fault: {line}", file=sys.stderr)
    return part


def show(parts: list[Part]) -> None:
    found = summed(parts)
    print("\n")
    print_table([{"fault": name, "times": times} for name, times in found["faults by kind"].items()])
    print()
    plain = {name: value for name, value in found.items() if not name.endswith("by kind")}
    print_table([{"figure": name, "value": value} for name, value in plain.items()])
    for line in broken(parts):
        print(line)


def keep(folder: Path) -> Path:
    """The processes' logs, beyond the end of the run."""
    kept = Path(tempfile.mkdtemp(prefix="kinora-chaos-logs-"))
    for log in folder.glob("*.log"):
        (kept / log.name).write_bytes(log.read_bytes())
    return kept


if __name__ == "__main__":
    main()
