"""One attack on a running service: what another caller and each process had before, during and after it."""

import asyncio
import os
import resource
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from attack.connections import Answers
from attack.other_caller import STATUS, UPLOAD, Call, OtherCaller, refused
from attack.processes import PERIOD_SECONDS, Holding, Holdings, holdings, most_of, watching
from attack.scenarios import SCENARIOS
from attack.target import LOOPBACK, Target
from core.config.settings import Settings
from core.ledger.moves import Ledger
from harness.report import spread
from harness.servers import PostgresServer, RedisServer, s3_server
from harness.stack import Stack

STEADY_SECONDS = 2.0  # between two pictures of those that still wait a decoder holds nothing
ATTACK_MORE_SECONDS = 120.0  # for what an attack does before: a video of its own, tasks to list
MOST_GROWTH = 300_000_000
# What may be there more a while after. Threads come and go with the other caller's own calls, and a process keeps some
# memory for the next picture. SQLite keeps the files of all the 15 connections that there may be, for the next ones.
LEFT = Holding(memory=100_000_000, threads=8, files=64)
MOST_MILLISECONDS = {STATUS: 100.0, UPLOAD: 1000.0}

# By a set of workers that is none RQ's loop ends, once; the worker begins another.
JUNK_IN_REDIS = r"Worker \w+: found an unhandled exception, quitting\.\.\.: redis\.exceptions\.ResponseError"


@dataclass(frozen=True)
class Size:
    """How much of an attack there is, and for how many seconds each part of a trial goes on."""

    seconds: float = 20.0
    settle: float = 60.0
    """At most, until every process is as before."""
    look: float = 10.0
    """Before, and after."""
    warm: float = 3.0
    """At first: code that is loaded at its first use, connections to the ledger."""
    scale: float = 1.0


@dataclass(frozen=True)
class Trial:
    scenario: str
    calls: dict[str, list[Call]]
    """The other caller's before, during and after."""
    held: dict[str, Holdings]
    """The most before and during, and what there is at the end."""
    ledger_bytes: dict[str, int]
    answers: Answers
    """The attacker's."""
    back_seconds: float | None
    """How long after the attack every process was as before; None: it was not within the time to settle."""

    @property
    def growth(self) -> dict[str, int]:
        """Bytes by which each process grew at most."""
        return grown(self.held["before"], self.held["during"])

    @property
    def broken(self) -> list[str]:
        """Return a sentence for each bound that does not hold, but those of time."""
        everything = [call for calls in self.calls.values() for call in calls]
        told = [f"the other caller was answered {what} {count} times" for what, count in refused(everything).items()]
        told += [f"{name} grew by {by // 10**6} MB" for name, by in self.growth.items() if by > MOST_GROWTH]
        if self.back_seconds is None:
            told += ["not as before", *left(self.held["before"], self.held["after"])]
        told += [f"the attacker was answered {status}" for status in self.answers if status in (500, 502, 504)]
        return [f"{self.scenario}: {line}" for line in told]

    @property
    def late(self) -> list[str]:
        """Return a sentence for each bound of time that does not hold: they are meant for an idle machine."""
        found = {what: latency(self.calls["during"], what)["p95"] for what in MOST_MILLISECONDS}
        slow = {what: p95 for what, p95 in found.items() if p95 > MOST_MILLISECONDS[what]}
        return [f"{self.scenario}: the p95 of {what} was {p95:.0f} ms" for what, p95 in slow.items()]

    def figures(self) -> dict[str, Any]:
        """All of it, as it goes into the file of results."""
        return {
            "scenario": self.scenario,
            "milliseconds": {
                when: {what: latency(calls, what) for what in MOST_MILLISECONDS} for when, calls in self.calls.items()
            },
            "refused": refused([call for calls in self.calls.values() for call in calls]),
            "processes": {
                when: {name: holding._asdict() for name, holding in held.items()} for when, held in self.held.items()
            },
            "ledger_bytes": self.ledger_bytes,
            "attackers_answers": {str(status): count for status, count in sorted(self.answers.items())},
            "back_seconds": self.back_seconds,
            "broken": self.broken,
            "late": self.late,
        }


def latency(calls: list[Call], what: str) -> dict[str, float]:
    """Milliseconds. Raises StatisticsError of fewer than two calls."""
    return spread([1000 * call.seconds for call in calls if call.what == what])


def grown(before: Holdings, now: Holdings) -> dict[str, int]:
    return {name: holding.memory - before.get(name, Holding()).memory for name, holding in now.items()}


def left(before: Holdings, now: Holdings) -> list[str]:
    """Return what each process holds more than before, beyond what it may. A decoder lives for a picture."""
    told = []
    for name, was in before.items():
        for kind, most in LEFT._asdict().items():
            more = getattr(now.get(name, was), kind) - getattr(was, kind)
            if more > most:
                told.append(f"{name} has {more} more {kind}")
    return told


@contextmanager
def service(folder: Path, on_servers: bool = False) -> Iterator[Stack]:
    """The whole service on loopback, with the limits as they come. Raises AssertionError for a crash."""
    settings = {"AUTH": "keys", "API_HOST": LOOPBACK, "WORKER_METRICS_HOST": LOOPBACK, "LEASE_SECONDS": "10"}
    with (
        RedisServer() as redis,
        servers() if on_servers else nullcontext({}) as stores,
        Stack(folder, redis, **settings, **stores) as stack,
    ):
        stack.announced.add(JUNK_IN_REDIS)
        with ledger_of(stack) as ledger:
            ledger.migrate()
            ledger.keys.create("operator")  # without one the API server does not start
        yield stack.start_all()


@contextmanager
def servers() -> Iterator[dict[str, str]]:
    """Yield the settings of a ledger in PostgreSQL and a storage in an S3 server."""
    import boto3  # takes a second, and only this needs it

    with PostgresServer() as postgres, s3_server() as endpoint:
        keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b"}
        client = boto3.client("s3", "us-east-1", endpoint_url=endpoint, **keys)
        client.create_bucket(Bucket="kinora")
        stores = {"DATABASE_URL": postgres.url, "STORAGE_URL": "s3://kinora/attacked"}
        reached = {"AWS_ENDPOINT": endpoint, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1"}
        yield reached | {name.upper(): value for name, value in keys.items()} | stores


@contextmanager
def ledger_of(stack: Stack) -> Iterator[Ledger]:
    environment = stack.environment
    settings = Settings(
        _env_file=None, data_dir=environment["DATA_DIR"], database_url=environment.get("DATABASE_URL", "")
    )
    ledger = Ledger(settings.resolved_database_url)
    try:
        yield ledger
    finally:
        ledger.close()


def size_of(ledger: Ledger) -> int:
    """Bytes on the disk."""
    if ledger.database.dialect.name == "postgresql":
        with ledger.database.connect() as connection:
            return int(connection.execute(sa.select(sa.func.pg_database_size(sa.func.current_database()))).scalar_one())
    file = Path(str(ledger.database.url.database))
    return sum(path.stat().st_size for path in file.parent.glob(f"{file.name}*"))


def try_out(stack: Stack, scenario: str, size: Size) -> Trial:
    """Attack `stack` with two keys of their own: the attacker's and the other caller's."""
    with ledger_of(stack) as ledger:
        (_, attacker), (_, other) = (ledger.keys.create(f"{who}.{scenario}") for who in ("attacker", "other"))
        target = Target(
            port=stack.port,
            metrics_port=int(stack.environment["WORKER_METRICS_PORT"]),
            redis_port=stack.redis.port,
            key=attacker,
            seconds=size.seconds,
            scale=size.scale,
        )
        bytes_before = size_of(ledger)
        with attackers() as others, OtherCaller(stack.port, other).running() as caller, watching(stack) as samples:
            time.sleep(size.warm)
            begun = time.monotonic()
            time.sleep(size.look)
            attacked = time.monotonic()
            before = most_of(samples, begun, attacked)
            answers = others.submit(make, scenario, target).result(size.seconds + ATTACK_MORE_SECONDS)
            over = time.monotonic()
            back = seconds_until_back(stack, before, size.settle)
            settled = time.monotonic()
            time.sleep(size.look)
        ended = time.monotonic()
        return Trial(
            scenario=scenario,
            calls={
                "before": caller.between(begun, attacked),
                "during": caller.between(attacked, over),
                "after": caller.between(settled, ended),
            },
            held={"before": before, "during": most_of(samples, attacked, over), "after": holdings(stack)},
            ledger_bytes={"before": bytes_before, "after": size_of(ledger)},
            answers=answers,
            back_seconds=back,
        )


def seconds_until_back(stack: Stack, before: Holdings, most: float) -> float | None:
    """Wait until every process holds what it held before, and goes on to. Return when that began, in seconds from now;
    None: not within the time."""
    begun = back = time.monotonic()
    while (now := time.monotonic()) <= begun + most + STEADY_SECONDS:
        if left(before, holdings(stack)):
            back = now + PERIOD_SECONDS
        elif now - back >= STEADY_SECONDS:
            return round(back - begun, 1)
        time.sleep(PERIOD_SECONDS)
    return None


def attackers() -> ProcessPoolExecutor:
    """A process of their own, with files for all their connections. On a machine of their own they would take no core
    from the service, so they take here what it leaves."""
    return ProcessPoolExecutor(1, get_context("spawn"), initializer=prepare)


def prepare() -> None:
    os.nice(10)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def make(scenario: str, target: Target) -> Answers:
    async def attack() -> Answers:
        return await SCENARIOS[scenario](target)

    return asyncio.run(attack())
