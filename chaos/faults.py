"""What is done to the service: each fault is over when its function returns, or undoes itself a little later."""

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random

from chaos.graphs import HOSTED_SECONDS
from chaos.points import POINTS, Point, arm
from chaos.reconcile import PROVIDER_EXPLAINS
from chaos.service import LEASE_SECONDS, NET_WORKERS, WORKERS, Death, Service
from harness.servers import wait_until
from keeper.leases import SILENCE_SECONDS

Fault = Callable[[Service, Random], bool]
"""Returns whether it came about."""

# How long a process that was told to die at a point may take to get there.
POINT_SECONDS = 6.0
# Long enough for another worker to have the step.
FROZEN_SECONDS = LEASE_SECONDS + SILENCE_SECONDS + 2.0
PROVIDER_SECONDS = 4.0


def kill(names: tuple[str, ...], how: signal.Signals, service: Service, random: Random) -> bool:
    """One of them."""
    service.send(random.choice(names), how)
    return True


def kill_in_mid_upload(service: Service, _random: Random) -> bool:
    """The API server has half a picture when it dies."""
    head = (
        "POST /generate HTTP/1.1\r\nHost: kinora\r\nContent-Length: 100000\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
        '--b\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n'
    )
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", service.port), timeout=5) as connection:
        connection.sendall(head.encode() + bytes(50_000))
        time.sleep(0.2)
        service.send("app", signal.SIGKILL)
        return True
    return False


def freeze_worker(names: tuple[str, ...], service: Service, random: Random) -> bool:
    """Beyond its lease. The others go on meanwhile; then it wakes up and must not write."""
    name = random.choice(names)
    service.send(name, signal.SIGSTOP)
    later(lambda: service.send(name, signal.SIGCONT))
    return True


def freeze(name: str, seconds: float, service: Service, _random: Random) -> bool:
    service.send(name, signal.SIGSTOP)
    time.sleep(seconds)
    service.send(name, signal.SIGCONT)
    return True


def keeper_away(service: Service, _random: Random) -> bool:
    service.send("keeper", signal.SIGKILL, hold_down=True)
    time.sleep(4.0)
    service.release("keeper")
    return True


def die_at(point: Point, service: Service, _random: Random) -> bool:
    pid = catch(point, signal.SIGKILL, service)
    if pid is not None:
        service.deaths.append(Death(pid, time.time()))
    return pid is not None


def freeze_at(point: Point, service: Service, _random: Random) -> bool:
    """At that very moment, and beyond its lease."""
    pid = catch(point, signal.SIGSTOP, service)
    if pid is None:
        return False
    service.deaths.append(Death(pid, time.time()))
    later(lambda: os.kill(pid, signal.SIGCONT))
    return True


def catch(point: Point, how: signal.Signals, service: Service) -> int | None:
    """The process that came to `point` and was sent the signal there."""
    return caught(set_trap(point, how, service))


def set_trap(point: Point, how: signal.Signals, service: Service) -> Path:
    (service.points / "caught").unlink(missing_ok=True)
    return arm(service.points, point, how)


def caught(trap: Path) -> int | None:
    """None: nobody came, and the trap is no more."""
    give_up = time.monotonic() + POINT_SECONDS
    while trap.exists() and time.monotonic() < give_up:
        time.sleep(0.01)
    try:
        trap.unlink()
    except FileNotFoundError:
        said = trap.with_name("caught")
        wait_until(lambda: said.exists() and bool(said.read_text()), what="the process at the point")
        return int(said.read_text())
    return None


def later(undo: Callable[[], None]) -> None:
    def undone() -> None:
        with contextlib.suppress(ProcessLookupError):  # it was killed meanwhile
            undo()

    thaw = threading.Timer(FROZEN_SECONDS, undone)
    thaw.daemon = True
    thaw.start()


def restart_redis(service: Service, random: Random) -> bool:
    service.redis.stop()  # it keeps nothing on disk: whatever it held is gone
    time.sleep(random.uniform(0.1, 3.0))
    service.redis.start()
    return True


def freeze_redis(service: Service, _random: Random) -> bool:
    service.redis.process.send_signal(signal.SIGSTOP)
    time.sleep(3.0)
    service.redis.process.send_signal(signal.SIGCONT)
    return True


def wipe_redis(service: Service, _random: Random) -> bool:
    service.redis.client.flushall()
    return True


def fill_redis(service: Service, _random: Random) -> bool:
    service.redis.client.config_set("maxmemory", 1)
    time.sleep(3.0)
    service.redis.client.config_set("maxmemory", 0)
    return True


def redis_read_only(service: Service, _random: Random) -> bool:
    """As after a failover, when clients still talk to what has become a replica."""
    service.redis.client.replicaof("127.0.0.1", "1")
    time.sleep(3.0)
    service.redis.client.replicaof("NO", "ONE")
    return True


def storage_away(service: Service, _random: Random) -> bool:
    """As a volume that is not mounted: a file lies where the folder was."""
    tasks = service.folder / "data" / "storage" / "tasks"
    away = tasks.with_name("away")
    tasks.rename(away)
    tasks.touch()
    time.sleep(2.0)
    tasks.unlink()
    away.rename(tasks)
    return True


def crash_postgres(service: Service, random: Random) -> bool:
    assert service.postgres
    service.postgres.crash()
    time.sleep(random.uniform(0.0, 3.0))
    service.postgres.start()
    return True


def freeze_postgres(service: Service, _random: Random) -> bool:
    assert service.postgres
    service.postgres.freeze()
    time.sleep(3.0)
    service.postgres.thaw()
    return True


def provider(mode: str, service: Service, random: Random) -> bool:
    """For a while; if nobody asks it anything meanwhile, it did not come about."""
    provider = service.provider
    assert provider
    met = provider.met[mode]
    provider.late_seconds = random.choice([1.0, HOSTED_SECONDS + 3.0])
    provider.mode = mode
    time.sleep(PROVIDER_SECONDS)
    provider.mode = "works"
    return provider.met[mode] > met


FAULTS: dict[str, Fault] = {
    "worker killed": partial(kill, WORKERS, signal.SIGKILL),
    "worker frozen beyond its lease": partial(freeze_worker, WORKERS),
    "worker told to stop": partial(kill, WORKERS, signal.SIGTERM),
    "net worker killed": partial(kill, NET_WORKERS, signal.SIGKILL),
    "net worker frozen beyond its lease": partial(freeze_worker, NET_WORKERS),
    "net worker told to stop": partial(kill, NET_WORKERS, signal.SIGTERM),
    "app killed": partial(kill, ("app",), signal.SIGKILL),
    "app killed in mid-upload": kill_in_mid_upload,
    "app frozen 2 s": partial(freeze, "app", 2.0),
    "keeper killed": partial(kill, ("keeper",), signal.SIGKILL),
    "keeper frozen 3 s": partial(freeze, "keeper", 3.0),
    "keeper away 4 s": keeper_away,
    "Redis restarted empty": restart_redis,
    "Redis frozen 3 s": freeze_redis,
    "Redis wiped": wipe_redis,
    "Redis full 3 s": fill_redis,
    "Redis read-only 3 s": redis_read_only,
    "storage away 2 s": storage_away,
    **{f"{point.process} killed: {point.name}": partial(die_at, point) for point in POINTS},
    # What freezes with all written and nothing committed keeps a SQLite ledger's only lock: that is not promised.
    **{
        f"{point.process} frozen: {point.name}": partial(freeze_at, point)
        for point in POINTS
        if point.process.endswith("worker") and point.when != "uncommitted"
    },
    **{f"provider {mode}": partial(provider, mode) for mode in PROVIDER_EXPLAINS},
}
POSTGRES_FAULTS: dict[str, Fault] = {"PostgreSQL crashed": crash_postgres, "PostgreSQL frozen 3 s": freeze_postgres}
# What happens most, in the field too, happens most here.
WEIGHTS = {"worker killed": 5, "worker frozen beyond its lease": 3, "net worker killed": 2, "app killed": 2}
