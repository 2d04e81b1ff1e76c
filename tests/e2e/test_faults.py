"""The faults that the service must withstand, each on its own and with real processes.

docs/reliability.md has the list; `scripts/chaos` does them all at once.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
import sqlalchemy as sa

from chaos.faults import catch, caught, set_trap
from chaos.points import POINTS
from chaos.service import WORKERS, Service
from core.callbacks.endpoints import FINAL_EVENTS
from core.config.settings import Settings
from core.db.tables import attempts, events, steps
from core.engines.known import find_engine
from core.ids import new_id
from core.ledger.moves import Ledger
from core.plan.clip import clip_graph
from core.requests.clip import Clip
from core.status import FINAL
from core.storage import Storage, input_key
from core.task import Callback, NewTask
from harness.pictures import SAMPLES
from harness.receiver import Receiver, receiving
from harness.servers import PostgresServer, RedisServer, wait_until
from harness.stack import ROOT, Stack, running_stack
from tests.conftest import input_for
from worker.main import EXIT_GPU_LOST

CAT = SAMPLES / "cat.jpg"
SHORT = {"num_frames": 5, "width": 128, "height": 72}
POINT = {point.name: point for point in POINTS}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Three workers with a lease of 3 s; whatever dies is started again, as a supervisor would."""
    with RedisServer() as redis, Service(tmp_path_factory.mktemp("faults"), redis, None) as service:
        yield service
        service.require_no_crash()


@pytest.fixture(scope="module")
def ledger(service: Service) -> Iterator[Ledger]:
    ledger = Ledger(f"sqlite:///{service.folder}/data/kinora.db")
    yield ledger
    ledger.close()


@pytest.fixture
def receiver(service: Service, ledger: Ledger) -> Iterator[Receiver]:
    with receiving(ledger.endpoints.secret(""), port=service.receiver_port) as receiver:
        yield receiver


def outcomes(ledger: Ledger, task_id: str) -> list[str]:
    """Of the attempts at the task's steps, in order."""
    query = sa.select(attempts.c.outcome).join(steps, steps.c.step_id == attempts.c.step_id)
    mine = query.where(steps.c.task_id == task_id).order_by(steps.c.position, attempts.c.attempt)
    with ledger.database.connect() as connection:
        return list(connection.execute(mine).scalars())


def require_one_end(ledger: Ledger, receiver: Receiver, task_id: str) -> None:
    """One final event in the ledger, and one that was told, under one id."""
    query = sa.select(events.c.kind).where(events.c.task_id == task_id, events.c.kind.in_(sorted(FINAL)))
    with ledger.database.connect() as connection:
        (end,) = connection.execute(query).scalars()
    assert ledger.task(task_id).status == end

    def told() -> set[tuple[str, str]]:
        mine = [found for found in receiver.received if found.body["data"]["task_id"] == task_id]
        return {(found.delivery_id, found.body["type"]) for found in mine}

    wait_until(lambda: bool(told()), 45, "the callback")
    assert [event for _, event in told()] == [f"task.{end}"]


def test_workers_killed_again_and_again_lose_nothing(service: Service, ledger: Ledger, receiver: Receiver) -> None:
    random = Random(1)
    service.gate.close("render", after=2)  # so that there is always something to lose
    tasks = [service.upload(CAT, **SHORT, callback_url=receiver.url) for _ in range(6)]
    for _ in range(4):
        time.sleep(random.uniform(0.2, 1.0))
        service.send(random.choice(WORKERS), signal.SIGKILL)
    service.gate.open()
    for task_id in tasks:
        assert service.wait_for(task_id)["status"] == "finished"
        assert outcomes(ledger, task_id).count("finished") == 1
        assert service.video(task_id)
        require_one_end(ledger, receiver, task_id)


def test_a_task_that_kills_its_worker_each_time_fails_and_the_queue_moves_on(
    service: Service, ledger: Ledger, receiver: Receiver
) -> None:
    task_id = service.upload(CAT, **SHORT, callback_url=receiver.url)
    while service.status(task_id)["status"] in ("queued", "started"):
        catch(POINT["all stored, not recorded"], signal.SIGKILL, service)
    assert service.status(task_id)["error"]["code"] == "attempts_exhausted"
    assert outcomes(ledger, task_id) == ["lost"] * 3
    require_one_end(ledger, receiver, task_id)
    assert service.wait_for(service.upload(CAT, **SHORT))["status"] == "finished"


def test_a_worker_frozen_before_it_records_changes_nothing_when_it_wakes(
    service: Service, ledger: Ledger, receiver: Receiver
) -> None:
    stopped = logs(service).count("outcome=stopped")
    trap = set_trap(POINT["all stored, not recorded"], signal.SIGSTOP, service)
    task_id = service.upload(CAT, **SHORT, callback_url=receiver.url)
    zombie = caught(trap)
    assert zombie is not None
    body, video = service.wait_for(task_id), service.video(task_id)
    assert body["status"] == "finished"
    os.kill(zombie, signal.SIGCONT)
    wait_until(lambda: logs(service).count("outcome=stopped") > stopped, what="the zombie's end")
    assert service.status(task_id) == body
    assert service.video(task_id) == video
    assert outcomes(ledger, task_id) == ["lost", "finished"]
    require_one_end(ledger, receiver, task_id)


def logs(service: Service) -> str:
    return "".join((service.folder / f"{name}.log").read_text() for name in WORKERS)


@pytest.mark.parametrize(
    ("moment", "how"),
    [
        ("step claimed", signal.SIGSTOP),
        ("step claimed", signal.SIGKILL),
        ("video stored, thumbnail not", signal.SIGSTOP),
        ("all stored, not recorded", signal.SIGSTOP),
        ("all stored, not recorded", signal.SIGKILL),
    ],
)
def test_cancel_is_final_at_whatever_moment_and_though_the_worker_is_dead(
    service: Service, ledger: Ledger, receiver: Receiver, moment: str, how: signal.Signals
) -> None:
    trap = set_trap(POINT[moment], how, service)
    task_id = service.upload(CAT, **SHORT, callback_url=receiver.url)
    pid = caught(trap)
    assert pid is not None
    for _ in range(2):
        assert service.client.post(f"/cancel/{task_id}").json()["status"] == "canceled"
    if how == signal.SIGSTOP:
        os.kill(pid, signal.SIGCONT)
    assert service.wait_for(service.upload(CAT, **SHORT))["status"] == "finished"
    assert service.status(task_id)["status"] == "canceled"
    assert service.client.get(f"/results/{task_id}").status_code == 410
    assert outcomes(ledger, task_id) == ["canceled"]
    require_one_end(ledger, receiver, task_id)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_that_dies_while_it_finalizes_with_the_next_begun_loses_both_to_others(
    service: Service, ledger: Ledger, receiver: Receiver, how: signal.Signals
) -> None:
    stopped = logs(service).count("outcome=stopped")
    service.gate.close("encode_video", after=1)  # each worker finalizes one, and begins another
    trap = set_trap(POINT["next step claimed while one is finalized"], how, service)
    tasks = [service.upload(CAT, **SHORT, callback_url=receiver.url) for _ in range(6)]
    pid = caught(trap)
    assert pid is not None
    service.gate.open()
    bodies = [service.wait_for(task_id) for task_id in tasks]
    if how == signal.SIGSTOP:
        os.kill(pid, signal.SIGCONT)
        wait_until(lambda: logs(service).count("outcome=stopped") == stopped + 2, what="the end of both zombies")
    assert [service.status(task_id) for task_id in tasks] == bodies
    assert [body["status"] for body in bodies] == ["finished"] * 6
    assert sorted(outcomes(ledger, task_id) for task_id in tasks) == [["finished"]] * 4 + [["lost", "finished"]] * 2
    for task_id in tasks:
        assert service.video(task_id)
        require_one_end(ledger, receiver, task_id)


def test_a_video_that_goes_on_is_joined_though_a_worker_dies_before_the_joining_and_one_in_it(
    service: Service, ledger: Ledger
) -> None:
    first = service.upload(CAT, **SHORT)
    service.wait_for(first)
    trap = set_trap(POINT["step finished, next not woken"], signal.SIGKILL, service)
    extension = {"video": {"id": first}, "seconds": "2"}
    task_id = service.client.post("/v1/videos/extensions", json=extension).json()["id"]
    assert caught(trap) is not None
    trap = set_trap(POINT["step claimed"], signal.SIGKILL, service)
    assert caught(trap) is not None, "of the joining: there is no other step"
    assert service.wait_for(task_id)["status"] == "finished"
    assert outcomes(ledger, task_id) == ["finished", "lost", "finished"]
    assert service.video(task_id)


def test_smoothing_goes_on_elsewhere_where_a_worker_dies_in_it(
    service: Service, ledger: Ledger, receiver: Receiver
) -> None:
    """The clip is not made again. The preview engine's, whose tasks have no such step unless one is put there."""
    task_id = new_id()
    clip = Clip(engine="preview", width=320, height=180, num_frames=9, fps=7, seed=1, fit="cover", quality=18)
    clip = clip.model_copy(update={"smooth_fps": 30})
    settings = Settings(_env_file=None)
    steps = clip_graph(clip, find_engine("preview", settings), "cpu", settings).new_steps()
    told = Callback(receiver.url, list(FINAL_EVENTS))
    task = NewTask(task_id, "", "preview", clip.model_dump(), [input_for(task_id)], [], steps, told)
    Storage(f"file://{service.folder}/data/storage").put(input_key(task.task_id, "picture"), CAT.read_bytes())
    trap = set_trap(POINT["step finished, next not woken"], signal.SIGKILL, service)
    ledger.create(task)
    assert caught(trap) is not None
    trap = set_trap(POINT["video stored, thumbnail not"], signal.SIGKILL, service)
    assert caught(trap) is not None, "of the smoothing: there is no other step"
    assert service.wait_for(task_id)["status"] == "finished"
    assert outcomes(ledger, task_id) == ["finished", "lost", "finished"]
    assert service.video(task_id)
    require_one_end(ledger, receiver, task_id)


def full(redis: RedisServer) -> None:
    redis.client.config_set("maxmemory", 1)


def not_full(redis: RedisServer) -> None:
    redis.client.config_set("maxmemory", 0)


def read_only(redis: RedisServer) -> None:
    redis.client.replicaof("127.0.0.1", "1")


def writable(redis: RedisServer) -> None:
    redis.client.replicaof("NO", "ONE")


def frozen(redis: RedisServer) -> None:
    redis.process.send_signal(signal.SIGSTOP)


def thawed(redis: RedisServer) -> None:
    redis.process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize(
    ("broken", "mended"),
    [(RedisServer.stop, RedisServer.start), (frozen, thawed), (full, not_full), (read_only, writable)],
    ids=["refused and restarted empty", "frozen", "full", "read-only"],
)
def test_without_redis_uploads_are_accepted_and_nothing_runs_twice(
    service: Service, ledger: Ledger, broken: object, mended: object
) -> None:
    service.gate.close()
    running = service.upload(CAT, **SHORT)
    service.wait_for(running, "started")
    broken(service.redis)
    waiting = [service.upload(CAT, **SHORT) for _ in range(2)]
    assert service.status(waiting[0])["status"] in ("queued", "started", "finished")
    health = service.client.get("/health").json()
    assert health["status"] == "degraded"
    assert health["stores"]["redis"] != "ok"
    service.gate.open()
    assert service.wait_for(running)["status"] == "finished", "what runs needs no Redis"
    assert service.video(running)
    mended(service.redis)
    for task_id in waiting:
        assert service.wait_for(task_id)["status"] == "finished"
        assert outcomes(ledger, task_id) == ["finished"]


def test_a_redis_that_is_wiped_again_and_again_costs_seconds(service: Service, ledger: Ledger) -> None:
    tasks = []
    for _ in range(10):
        tasks.append(service.upload(CAT, **SHORT))
        service.redis.client.flushall()
    for task_id in tasks:
        assert service.wait_for(task_id)["status"] == "finished"
        assert outcomes(ledger, task_id) == ["finished"]


def test_while_the_keeper_is_away_everything_else_goes_on(service: Service, ledger: Ledger) -> None:
    service.send("keeper", signal.SIGKILL, hold_down=True)
    trap = set_trap(POINT["all stored, not recorded"], signal.SIGKILL, service)
    orphan = service.upload(CAT, **SHORT)
    assert caught(trap) is not None
    others = [service.upload(CAT, **SHORT) for _ in range(3)]
    for task_id in others:
        assert service.wait_for(task_id)["status"] == "finished"
    time.sleep(4)  # its lease is over, and nobody is there to see it
    assert service.status(orphan)["status"] == "started"
    service.release("keeper")
    assert service.wait_for(orphan)["status"] == "finished"
    assert outcomes(ledger, orphan) == ["lost", "finished"]


def test_while_postgresql_is_away_callers_are_told_to_come_back_and_a_video_is_kept(tmp_path: Path) -> None:
    with PostgresServer() as postgres, running_stack(tmp_path, DATABASE_URL=postgres.url, LEASE_SECONDS="15") as stack:
        stack.gate.close()
        running = stack.upload(CAT, **SHORT)
        stack.wait_for(running, "started")
        postgres.crash()
        stack.gate.open()
        refused = stack.client.post("/generate", files={"file": CAT.read_bytes()})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "ledger_unavailable")
        assert int(refused.headers["retry-after"]) > 0
        # Who calls cannot be known then, and what strangers are told may be a second old.
        wait_until(lambda: stack.client.get("/health").status_code == 503, 5, "health to see it")
        assert stack.client.get("/health").json()["status"] == "down"
        postgres.start()
        assert stack.wait_for(running)["status"] == "finished"
        again = stack.upload(CAT, **SHORT)
        assert stack.wait_for(again)["status"] == "finished"
        ledger = Ledger(postgres.url.replace("postgresql:", "postgresql+psycopg:"))
        assert outcomes(ledger, running) == ["finished"], "rendered once: recording was tried again"
        ledger.close()


# A worker whose GPU breaks for good at the first step.
LOSES_ITS_GPU = """
import atexit, time
from core.errors import GpuLost
from worker import main
from worker.engines.camera import Camera

def render(*_):
    raise GpuLost("CUDA error: an illegal memory access was encountered")

Camera.render = render
atexit.register(time.sleep, 600)  # as libraries may hang that clean up on a GPU that is lost
main.main()
"""


def test_a_worker_that_lost_its_gpu_leaves_and_the_step_runs_elsewhere(stack: Stack) -> None:
    stack.kill("worker-cpu")
    command = [sys.executable, "-c", LOSES_ITS_GPU, "--queue", "cpu"]
    with (stack.folder / "broken.log").open("wb") as log:
        broken = subprocess.Popen(command, cwd=ROOT, env=stack.environment, stderr=log)
    task_id = stack.upload(CAT, **SHORT)
    assert broken.wait(30) == EXIT_GPU_LOST
    stack.start_worker()
    assert stack.wait_for(task_id)["status"] == "finished"


@pytest.mark.parametrize("name", ["app", "keeper", "worker-cpu"])
def test_every_process_that_is_told_to_stop_leaves_in_order(stack: Stack, name: str) -> None:
    assert stack.kill(name, signal.SIGTERM) == 0
