"""The attacks. Each is made by one key (or by none), with the limits as they come, and says how many connections and
bytes it takes; how long, its target says."""

import asyncio
import json
import secrets
from base64 import b64encode
from collections.abc import Awaitable, Callable
from typing import Any

from redis import Redis

from attack.connections import Answer, Answers, ask, flood, for_a_time, hold
from attack.junk import write_junk, write_wrong_types
from attack.pictures import many_chunks, rgba16
from attack.target import Target
from harness.pictures import CAT, png

TINY = png(64, 64)
CLIP = {"engine": "preview", "width": 64, "height": 64, "num_frames": 2}
# No worker here has a GPU: its tasks wait.
WAITING_CLIP = {"engine": "svd-xt", "num_frames": 601, "fps": 30}
UNFINISHED = {"Content-Length": "50000", "Content-Type": "multipart/form-data; boundary=x"}
LARGE_BYTES = 19_000_000


async def slow_uploads(target: Target) -> Answers:
    """64 connections on each of which an upload comes by a byte a second."""
    head = target.request("POST", "/generate", UNFINISHED)
    return await hold(target, target.some(64), head + b"--x\r\n", more=b"-")


async def make_and_cancel(target: Target) -> Answers:
    """Four connections make tasks of 601 frames with a prompt of 12,000 bytes, and cancel each."""
    answers = Answers()

    async def go_on() -> None:
        while True:
            made = await ask(target.port, large_task(target))
            answers[made.status] += 1
            if made.status == 202:
                answers[(await ask(target.port, cancel(target, made))).status] += 1

    await for_a_time(target.seconds, *(go_on() for _ in range(4)))
    return answers


def large_task(target: Target) -> bytes:
    fields = {**WAITING_CLIP, "prompt": "\N{OCTOPUS}" * 3000, "image": b64encode(TINY).decode()}
    return target.request("POST", "/generate", json=fields)


def cancel(target: Target, made: Answer) -> bytes:
    return target.request("POST", f"/cancel/{task_id_of(made)}")


def task_id_of(made: Answer) -> str:
    """Raises AssertionError where no task was made: then there is nothing to attack with."""
    assert made.status == 202, made
    return str(json.loads(made.body)["task_id"])


async def many_parts(target: Target) -> Answers:
    """Two connections send PNGs of 900,000 chunks, of 11 MB."""
    upload = form(target, many_chunks(target.some(900_000)))
    return await flood(target, 2, lambda _: upload)


async def large_pixels(target: Target) -> Answers:
    """Four connections send PNGs of 24 megapixels with eight bytes each."""
    upload = form(target, rgba16(target.some(6000), 4000))
    return await flood(target, 4, lambda _: upload)


async def large_files(target: Target) -> Answers:
    """40 connections send a JPEG of 19 MB."""
    upload = form(target, CAT + bytes(LARGE_BYTES - len(CAT)))
    return await flood(target, target.some(40), lambda _: upload)


async def large_texts(target: Target) -> Answers:
    """20 connections send a JPEG of 19 MB as base64 in JSON."""
    fields = {**CLIP, "image": b64encode(CAT + bytes(LARGE_BYTES - len(CAT))).decode()}
    upload = target.request("POST", "/generate", json=fields)
    return await flood(target, target.some(20), lambda _: upload)


async def worker_metrics(target: Target) -> Answers:
    """1000 connections to the port of the worker's metrics, on which nothing is asked."""
    return await hold(target, target.some(1000), b"", port=target.metrics_port)


async def unfinished_heads(target: Target) -> Answers:
    """1050 connections without a key, on each of which a head comes line by line."""
    return await hold(target, target.some(1050), b"GET / HTTP/1.1\r\nHost: localhost\r\n", more=b"X-More: x\r\n")


async def junk_in_redis(target: Target) -> Answers:
    """Wrong values under every name of Redis that is shared, each second, and 200 MB of ids."""
    redis = Redis(port=target.redis_port)

    async def go_on() -> None:
        await asyncio.to_thread(write_junk, redis, target.some(200))
        while True:
            await asyncio.sleep(1)
            await asyncio.to_thread(write_wrong_types, redis)

    await for_a_time(target.seconds, go_on())
    redis.close()
    return Answers()


async def many_names(target: Target) -> Answers:
    """Four connections send JSON with 6500 names that no route knows."""
    upload = target.request("POST", "/generate", json={f"n{number}": 1 for number in range(6500)})
    return await flood(target, 4, lambda _: upload)


async def unknown_keys(target: Target) -> Answers:
    """50 connections ask with keys that nobody has, another each time."""

    def guess(_: int) -> bytes:
        return target.request("GET", "/tasks", {"Authorization": f"Bearer kinora_{secrets.token_urlsafe(32)}"})

    return await flood(target, target.some(50), guess)


async def listeners(target: Target) -> Answers:
    """500 connections listen to a task that does not end."""
    made = await ask(target.port, large_task(target))
    events = target.request("GET", f"/status/{task_id_of(made)}/events")
    answers = await hold(target, target.some(500), events)
    await ask(target.port, cancel(target, made))
    return answers


async def slow_readers(target: Target) -> Answers:
    """300 connections ask for a video of several megabytes, and do not read it."""
    video = await make_video(target)
    return await hold(target, target.some(300), target.request("GET", video), reads=False)


async def many_ranges(target: Target) -> Answers:
    """16 connections ask for a thousand ranges of a video at once, and for single bytes of it."""
    video = await make_video(target)
    ranges = ["0-0", ",".join(f"{number}-{number}" for number in range(1000))]

    def part(number: int) -> bytes:
        return target.request("GET", video, {"Range": f"bytes={ranges[number % 2]}"})

    return await flood(target, 16, part)


async def make_video(target: Target) -> str:
    """Return the path of a video of the attacker's."""
    clip = {"engine": "preview", "width": 1280, "height": 720, "num_frames": target.some(100), "quality": 1}
    made = task_id_of(await ask(target.port, form(target, CAT, clip)))
    status = target.request("GET", f"/status/{made}")
    while json.loads((await ask(target.port, status)).body)["status"] != "finished":
        await asyncio.sleep(0.2)
    return f"/results/{made}"


async def idempotency_keys(target: Target) -> Answers:
    """Four connections make tasks with an idempotency key each."""

    def upload(number: int) -> bytes:
        return form(target, TINY, CLIP, {"Idempotency-Key": str(number)})

    return await flood(target, 4, upload)


async def long_lists(target: Target) -> Answers:
    """16 connections ask for lists of 200 tasks, from every place of a list of 400."""
    made = []
    for _ in range(target.some(400)):
        accepted = await ask(target.port, large_task(target))
        await ask(target.port, cancel(target, accepted))
        made.append(task_id_of(accepted))

    def page(number: int) -> bytes:
        return target.request("GET", f"/tasks?limit=200&after={made[-1 - number % len(made)]}")

    return await flood(target, 16, page)


def form(target: Target, picture: bytes, clip: dict[str, Any] = CLIP, headers: dict[str, str] | None = None) -> bytes:
    return target.request("POST", "/generate", headers, files={"file": picture}, data=clip)


Scenario = Callable[[Target], Awaitable[Answers]]
SCENARIOS: dict[str, Scenario] = {
    each.__name__.replace("_", "-"): each
    for each in (
        slow_uploads,
        make_and_cancel,
        many_parts,
        large_pixels,
        large_files,
        large_texts,
        worker_metrics,
        unfinished_heads,
        junk_in_redis,
        many_names,
        unknown_keys,
        listeners,
        slow_readers,
        many_ranges,
        idempotency_keys,
        long_lists,
    )
}
