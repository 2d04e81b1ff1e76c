"""Whatever stands in Redis, a real worker process imports and calls nothing of it, and goes on."""

import json
import os
import pickle
import socket
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis

from harness.pictures import SAMPLES
from harness.servers import wait_until
from harness.stack import Stack, running_stack

STAMP = "2026-01-01T00:00:00.000000Z"
EVIL = "e" * 32  # an id like ours
CANARY = Path("canary")  # in the folder that the variable PLANTED names


class Evil:
    """Unpickled it runs a command."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.canary}",)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """On the worker's path, with a module that tells when it is imported."""
    folder = tmp_path_factory.mktemp("planted")
    (folder / "planted.py").write_text(
        f"from pathlib import Path\nPath({str(folder / CANARY)!r}).touch()\ndef call(*args): pass\n"
    )
    return folder


@pytest.fixture(scope="module")
def stack(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running_stack(tmp_path_factory.mktemp("stack"), PYTHONPATH=str(folder)) as stack:
        # A set of workers that is none ends RQ's loop at its next sign of life, once; the worker begins another.
        stack.announced.add(
            r"Worker \w+: found an unhandled exception, quitting\.\.\.: redis\.exceptions\.ResponseError"
        )
        yield stack


@pytest.fixture
def canary(folder: Path) -> Path:
    return folder / CANARY


def job(function: str = "worker.run.runner.run_step", *args: object, **fields: str | bytes) -> dict[str, str | bytes]:
    data = zlib.compress(json.dumps([function, None, list(args), {}]).encode())
    return {"data": data, "created_at": STAMP, "enqueued_at": STAMP, "origin": "cpu", "status": "queued"} | fields


def write(redis: Redis, fields: dict[str, str | bytes], job_id: str = EVIL) -> None:
    redis.hset(f"rq:job:{job_id}", mapping=fields)
    redis.rpush("rq:queue:cpu", job_id)


def make_a_video(stack: Stack) -> None:
    task = stack.upload(SAMPLES / "cat.jpg", width=64, height=64, num_frames=2)
    assert stack.wait_for(task)["status"] == "finished"


def restart(stack: Stack) -> None:
    """A worker looks after what others left only when it starts, and every ten minutes."""
    stack.kill("worker-cpu")
    stack.redis.client.delete("rq:clean_registries:cpu")  # a lock that RQ's housekeeping takes
    stack.start("worker-cpu", "worker", "--queue", "cpu")


CALLBACKS = {f"{kind}_callback_name": "planted.call" for kind in ("success", "failure", "stopped")}

ATTACKS: dict[str, Callable[[Path], dict[str, str | bytes]]] = {
    "os.system": lambda canary: job("os.system", f"touch {canary}"),
    "another function of ours": lambda _: job("worker.run.runner.release_steps", "evil"),
    "a module that is not loaded": lambda _: job("planted.call"),
    "callbacks": lambda _: job("worker.run.runner.run_step", "no-step", **CALLBACKS),
    "callbacks of a function that is refused": lambda _: job("planted.call", **CALLBACKS),
    "callbacks that RQ would unpickle": lambda canary: job(result=pickle.dumps(Evil(canary)), **CALLBACKS),
    "pickled": lambda canary: job(data=pickle.dumps(Evil(canary))),
    "pickled and packed": lambda canary: job(data=zlib.compress(pickle.dumps(Evil(canary)))),
    "pickled beside the data": lambda canary: job("x", meta=pickle.dumps(Evil(canary)), exc_info=b"\x80junk"),
    "an instance to call a method of": lambda _: job(data=json.dumps(["call", "planted", [], {}]).encode()),
    "dependents": lambda _: job(dependency_ids="not json", allow_dependency_failures="many"),
    "fields that RQ cannot parse": lambda _: job(created_at="now", timeout="soon", status="odd", result_ttl="x"),
    "no data": lambda _: {"created_at": STAMP},
    "junk": lambda _: job(data=b"\x00\xff" * 100),
    "deep": lambda _: job(data=zlib.compress(b"[" * 9_000)),
    "large": lambda _: job(data=os.urandom(50_000_000)),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_job_written_raw_is_thrown_away_unread(stack: Stack, canary: Path, name: str) -> None:
    worker = stack.processes["worker-cpu"]
    write(stack.redis.client, ATTACKS[name](canary))
    make_a_video(stack)
    wait_until(lambda: stack.redis.client.llen("rq:queue:cpu") == 0)
    assert worker.poll() is None
    assert not canary.exists()
    assert not stack.redis.client.exists(f"rq:job:{EVIL}")


def test_a_job_that_unpacks_to_a_gigabyte_takes_no_memory(stack: Stack) -> None:
    make_a_video(stack)
    before = peak_mb(stack)
    write(stack.redis.client, job(data=zlib.compress(zlib.compress(bytes(10**9), 9), 9)))
    write(stack.redis.client, job(data=zlib.compress(bytes(9_000_000), 9)))
    make_a_video(stack)
    assert peak_mb(stack) - before < 100


def peak_mb(stack: Stack, name: str = "worker-cpu") -> float:
    text = Path(f"/proc/{stack.processes[name].pid}/status").read_text()
    return next(int(line.split()[1]) / 1000 for line in text.splitlines() if line.startswith("VmHWM"))


@pytest.mark.parametrize("entry", [b"\xff\xfe", b"", b"a b;c", b"../x", b"evil:exec", b"x" * 1_000_000])
def test_an_id_that_is_none_is_passed_over(stack: Stack, entry: bytes) -> None:
    stack.redis.client.rpush("rq:queue:cpu", entry)
    make_a_video(stack)
    assert "worker-cpu" in stack.processes
    assert stack.processes["worker-cpu"].poll() is None


def test_a_key_of_another_kind_is_passed_over(stack: Stack) -> None:
    stack.redis.client.set(f"rq:job:{EVIL}", "a string")
    stack.redis.client.rpush("rq:queue:cpu", EVIL)
    make_a_video(stack)
    assert stack.processes["worker-cpu"].poll() is None
    assert not stack.redis.client.exists(f"rq:job:{EVIL}")


NO_TEXT = b"\xff\xfe"
SHARED = ["rq:queue:cpu", "rq:queue:cpu:intermediate", "rq:queues", "rq:workers", "rq:workers:cpu", "rq:suspended"]
JUNK: dict[str, Callable[[Redis, str], object]] = {
    "a string": lambda redis, name: redis.set(name, NO_TEXT),
    "a hash": lambda redis, name: redis.hset(name, "a", "b"),
    "a list of what is no text": lambda redis, name: redis.rpush(name, NO_TEXT, b"", b"other:key"),
    "a set of what is no text": lambda redis, name: redis.sadd(name, NO_TEXT, b"", b"other:key"),
    "a pickle": lambda redis, name: redis.set(name, pickle.dumps(["a"])),
}


@pytest.mark.parametrize("junk", JUNK)
@pytest.mark.parametrize("name", SHARED)
def test_whatever_stands_under_a_name_that_is_shared_videos_are_made(stack: Stack, name: str, junk: str) -> None:
    stack.redis.client.delete(name)
    JUNK[junk](stack.redis.client, name)
    make_a_video(stack)
    assert stack.processes["worker-cpu"].poll() is None
    stack.redis.client.delete("rq:suspended")
    wait_until(lambda: stack.client.get("/health").json()["status"] == "ok")


@pytest.mark.parametrize("entry", [b"a" * 1_000_000, NO_TEXT * 20, EVIL.encode()], ids=["large", "no text", "an id"])
def test_200_mb_in_a_queue_cost_seconds_and_no_memory(stack: Stack, entry: bytes) -> None:
    make_a_video(stack)
    before = {name: peak_mb(stack, name) for name in stack.processes}
    with stack.redis.client.pipeline() as pipeline:
        for _ in range(20):
            pipeline.rpush("rq:queue:cpu", *[entry] * (10_000_000 // len(entry)))
        pipeline.execute()
    make_a_video(stack)
    assert {name: peak_mb(stack, name) - before[name] < 100 for name in before} == dict.fromkeys(before, True)


def test_an_abandoned_job_has_its_callback_not_called(stack: Stack, canary: Path) -> None:
    """RQ's own worker imports and calls it, in its housekeeping."""
    redis = stack.redis.client
    redis.hset(f"rq:job:{EVIL}", mapping=job("planted.call", **CALLBACKS))
    for registry in ("wip", "failed", "finished", "deferred", "scheduled", "canceled"):
        redis.zadd(f"rq:{registry}:cpu", {f"{EVIL}:1" if registry == "wip" else EVIL: 1})
    redis.sadd("rq:groups", "evil")
    redis.sadd("rq:group:evil", EVIL)
    restart(stack)
    make_a_video(stack)
    assert not canary.exists()


def test_a_job_that_was_taken_but_not_run_sends_no_webhook(stack: Stack) -> None:
    """RQ's own worker sends it, to any address, in its housekeeping."""
    redis = stack.redis.client
    with socket.create_server(("127.0.0.1", 0)) as target:
        target.setblocking(False)
        url = f"http://127.0.0.1:{target.getsockname()[1]}/"
        hook = json.dumps([{"url": url, "job_status": "failed", "method": "POST", "headers": None, "timeout": 5}])
        redis.hset(f"rq:job:{EVIL}", mapping=job("planted.call", webhooks=hook))
        redis.rpush("rq:queue:cpu:intermediate", EVIL)
        redis.set(f"rq:queue:cpu:intermediate:first_seen:{EVIL}", "1")
        restart(stack)
        make_a_video(stack)
        with pytest.raises(BlockingIOError):
            target.accept()


def test_a_worker_listens_to_no_commands(stack: Stack) -> None:
    make_a_video(stack)
    assert stack.redis.client.pubsub_channels() == []
