"""The service as its own processes: uploads, videos, and what happens when processes die."""

import signal
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import av
import pytest
import sqlalchemy as sa
from PIL import Image

from core.ledger import Ledger
from core.tables import attempts
from harness.pictures import SAMPLES
from harness.servers import wait_until
from harness.stack import Stack, running_stack

CAT = SAMPLES / "cat.jpg"

# About ten seconds of work for the preview engine, to have time to kill something.
LONG = {"num_frames": 200, "width": 1024, "height": 576}


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    with running_stack(tmp_path) as stack:
        yield stack


def frames_of(video: bytes) -> tuple[int, int, int, float]:
    """(frames, width, height, frames a second)."""
    with av.open(BytesIO(video)) as container:
        stream = container.streams.video[0]
        count = sum(1 for _ in container.decode(stream))
        return count, stream.width, stream.height, float(stream.average_rate)


def test_a_photograph_becomes_a_video_and_a_thumbnail(stack: Stack) -> None:
    task_id = stack.upload(CAT)
    body = stack.wait_for(task_id)
    assert body["status"] == "finished"
    assert frames_of(stack.video(task_id)) == (25, 1024, 576, 7.0)
    thumbnail = stack.client.get(f"/results/{task_id}/thumbnail").content
    assert Image.open(BytesIO(thumbnail)).format == "JPEG"
    assert set(body["receipt"]["seconds"]) == {"load", "render", "encode_video", "store"}


def test_the_same_receipt_gives_the_same_bytes(stack: Stack) -> None:
    first = stack.upload(CAT, num_frames=8, motion="orbit")
    receipt = stack.wait_for(first)["receipt"]
    again = stack.upload(CAT, engine=receipt["engine"], **receipt["parameters"])
    assert stack.wait_for(again)["receipt"]["output_sha256"] == receipt["output_sha256"]
    assert stack.video(again) == stack.video(first)


def test_progress_only_rises_and_reaches_100(stack: Stack) -> None:
    task_id = stack.upload(CAT, **LONG)
    seen = []
    while (body := stack.status(task_id))["status"] not in ("finished", "failed"):
        seen.append(body["progress"])
        time.sleep(0.1)
    assert body["status"] == "finished"
    assert body["progress"] == 100
    assert seen == sorted(seen)
    assert len(set(seen)) > 3


def test_a_running_task_is_canceled_and_the_worker_is_free_again(stack: Stack) -> None:
    task_id = stack.upload(CAT, **LONG)
    stack.wait_for(task_id, "started")
    stack.client.post(f"/cancel/{task_id}")
    after = stack.upload(CAT, num_frames=2)
    assert stack.wait_for(after)["status"] == "finished"
    assert stack.status(task_id)["status"] == "canceled"
    assert stack.client.get(f"/results/{task_id}").status_code == 410
    leftovers = list((stack.folder / "data" / "storage" / "tasks" / task_id).rglob("*.mp4"))
    assert leftovers == []


def test_a_task_whose_worker_is_killed_goes_to_another(stack: Stack) -> None:
    task_id = stack.upload(CAT, **LONG)
    stack.wait_for(task_id, "started")
    stack.kill("worker-cpu")
    stack.start("worker-cpu", "worker", "--queue", "cpu")
    wait_until(lambda: (stack.status(task_id)["step"] or {}).get("attempt") == 2, 30, "a second attempt")
    assert stack.wait_for(task_id)["status"] == "finished"
    assert frames_of(stack.video(task_id))[0] == LONG["num_frames"]


def test_a_worker_that_is_told_to_stop_finishes_its_step_first(stack: Stack) -> None:
    task_id = stack.upload(CAT, **LONG)
    stack.wait_for(task_id, "started")
    assert stack.kill("worker-cpu", signal.SIGTERM) == 0
    assert stack.status(task_id)["status"] == "finished"
    assert stack.client.get("/health").json()["queues"]["cpu"]["workers"] == []


def test_a_worker_that_is_told_to_stop_gives_back_what_takes_too_long(tmp_path: Path) -> None:
    with running_stack(tmp_path, SHUTDOWN_GRACE="0.3") as stack:
        task_id = stack.upload(CAT, **LONG)
        stack.wait_for(task_id, "started")
        stack.start("worker-cpu-2", "worker", "--queue", "cpu")
        assert stack.kill("worker-cpu", signal.SIGTERM) == 0
        assert stack.wait_for(task_id)["status"] == "finished"
        outcomes = attempts_of(stack)
        assert outcomes == ["given_back", "finished"]


def in_its_tail_with_the_next_begun(stack: Stack) -> list[str]:
    """Two tasks that one worker works on at once: the second is short, and waits for the tail of the first."""
    stack.kill("worker-cpu", signal.SIGTERM)
    stack.start("worker-cpu", "tests.e2e.overlapping_worker", "--queue", "cpu")
    tasks = [stack.upload(CAT, **LONG), stack.upload(CAT, num_frames=2)]
    stack.wait_for(tasks[1], "started")
    wait_until_in_tail(stack, tasks[0])
    return tasks


def wait_until_in_tail(stack: Stack, task_id: str) -> None:
    wait_until(lambda: (stack.status(task_id)["step"] or {}).get("phase") == "encode_video", 30, "the tail")


def test_a_worker_that_is_told_to_stop_finishes_both_that_it_works_on(stack: Stack) -> None:
    tasks = in_its_tail_with_the_next_begun(stack)
    assert stack.kill("worker-cpu", signal.SIGTERM) == 0
    assert [stack.status(task_id)["status"] for task_id in tasks] == ["finished"] * 2
    assert attempts_of(stack) == ["finished"] * 2


def test_a_worker_that_is_told_to_stop_gives_both_back_that_it_works_on(tmp_path: Path) -> None:
    with running_stack(tmp_path, SHUTDOWN_GRACE="0.1") as stack:
        tasks = in_its_tail_with_the_next_begun(stack)
        assert stack.kill("worker-cpu", signal.SIGTERM) == 0
        stack.start("worker-cpu", "worker", "--queue", "cpu")
        for task_id in tasks:
            assert stack.wait_for(task_id)["status"] == "finished"
        assert sorted(attempts_of(stack)) == ["finished"] * 2 + ["given_back"] * 2


@pytest.mark.parametrize(("grace", "outcomes"), [("60", ["finished"]), ("0", ["given_back"])])
def test_a_worker_that_is_told_to_stop_while_only_a_tail_runs_ends_it_or_gives_it_back(
    tmp_path: Path, grace: str, outcomes: list[str]
) -> None:
    with running_stack(tmp_path, SHUTDOWN_GRACE=grace) as stack:
        task_id = stack.upload(CAT, **LONG)
        wait_until_in_tail(stack, task_id)
        assert stack.kill("worker-cpu", signal.SIGTERM) == 0
        assert attempts_of(stack) == outcomes
        assert stack.client.get("/health").json()["queues"]["cpu"]["workers"] == []


def attempts_of(stack: Stack) -> list[str]:
    ledger = Ledger(f"sqlite:///{stack.folder}/data/kinora.db")
    try:
        with ledger.database.connect() as connection:
            return list(connection.execute(sa.select(attempts.c.outcome).order_by(attempts.c.started_at)).scalars())
    finally:
        ledger.close()


def test_a_worker_frozen_for_longer_than_its_lease_changes_nothing_when_it_wakes(stack: Stack) -> None:
    task_id = stack.upload(CAT, **LONG)
    stack.wait_for(task_id, "started")
    frozen = stack.processes["worker-cpu"]
    frozen.send_signal(signal.SIGSTOP)
    stack.start("worker-cpu-2", "worker", "--queue", "cpu")
    body = stack.wait_for(task_id)
    assert body["status"] == "finished"
    frozen.send_signal(signal.SIGCONT)
    after = stack.upload(CAT, num_frames=2)
    stack.wait_for(after)
    assert stack.status(task_id) == body
    assert attempts_of(stack)[:2] == ["lost", "finished"]


def test_a_worker_leaves_after_its_number_of_steps_and_a_fresh_one_goes_on(tmp_path: Path) -> None:
    with running_stack(tmp_path, WORKER_MAX_STEPS="2") as stack:
        tasks = [stack.upload(CAT, num_frames=2) for _ in range(3)]
        worker = stack.processes.pop("worker-cpu")
        assert worker.wait(30) == 0
        stack.start("worker-cpu", "worker", "--queue", "cpu")
        for task_id in tasks:
            assert stack.wait_for(task_id)["status"] == "finished"


def test_an_idle_worker_that_is_told_to_stop_leaves_at_once(stack: Stack) -> None:
    assert stack.kill("worker-cpu", signal.SIGTERM) == 0


def test_a_worker_that_is_told_to_stop_while_redis_is_away_leaves_too(stack: Stack) -> None:
    stack.redis.stop()
    time.sleep(1.2)  # it has noticed, and waits for Redis to come back
    assert stack.kill("worker-cpu", signal.SIGTERM) == 0
    stack.redis.start()


def test_a_wiped_redis_loses_no_task(stack: Stack) -> None:
    stack.kill("worker-cpu")
    waiting = [stack.upload(CAT, num_frames=2) for _ in range(3)]
    stack.redis.client.flushall()
    stack.start("worker-cpu", "worker", "--queue", "cpu")
    for task_id in waiting:
        assert stack.wait_for(task_id)["status"] == "finished"


def test_a_task_accepted_while_redis_is_away_runs_when_it_is_back(stack: Stack) -> None:
    stack.redis.stop()
    task_id = stack.upload(CAT, num_frames=2)
    assert stack.client.get("/health").json()["status"] == "degraded"
    stack.redis.start()
    assert stack.wait_for(task_id)["status"] == "finished"


@pytest.mark.parametrize("name", ["app", "keeper", "worker-cpu"])
def test_a_restart_of_each_process_loses_nothing(stack: Stack, name: str) -> None:
    tasks = [stack.upload(CAT, num_frames=40) for _ in range(3)]
    stack.kill(name)
    command = ["worker", "--queue", "cpu"] if name.startswith("worker") else [name]
    stack.start(name, *command)
    stack.wait_until_ready()
    for task_id in tasks:
        assert stack.wait_for(task_id)["status"] == "finished"


def test_two_workers_share_the_work(stack: Stack) -> None:
    stack.start("worker-cpu-2", "worker", "--queue", "cpu")
    wait_until(lambda: len(stack.client.get("/health").json()["queues"]["cpu"]["workers"]) == 2, what="two workers")
    tasks = [stack.upload(CAT, num_frames=50) for _ in range(6)]
    for task_id in tasks:
        stack.wait_for(task_id)
    logs = [(stack.folder / f"{name}.log").read_text() for name in ("worker-cpu", "worker-cpu-2")]
    assert all("outcome=finished" in log for log in logs)


def test_two_keepers_do_no_harm(stack: Stack) -> None:
    stack.start("keeper-2", "keeper")
    tasks = [stack.upload(CAT, num_frames=10) for _ in range(3)]
    stack.redis.client.flushall()
    for task_id in tasks:
        assert stack.wait_for(task_id)["status"] == "finished"
    assert attempts_of(stack) == ["finished"] * 3


def test_several_api_processes_add_up_in_one_metrics_page(tmp_path: Path) -> None:
    with running_stack(tmp_path, API_WORKERS="2") as stack:
        for _ in range(40):
            with stack.client.stream("GET", "/health/live", headers={"Connection": "close"}) as response:
                response.read()
        text = stack.client.get("/metrics").text
        line = next(line for line in text.splitlines() if 'route="/health/live"' in line and "requests_total" in line)
        assert float(line.split()[-1]) == 40


def test_a_worker_serves_its_own_metrics(stack: Stack) -> None:
    import httpx2

    stack.wait_for(stack.upload(CAT, num_frames=2))
    port = stack.client.get("/health").json()["queues"]["cpu"]["workers"][0]["metrics_port"]
    text = httpx2.get(f"http://127.0.0.1:{port}/metrics").text
    assert 'kinora_worker_steps_total{engine="preview",outcome="finished"} 1.0' in text
    assert 'kinora_worker_phase_seconds_count{engine="preview",phase="render"} 1.0' in text
    assert "process_resident_memory_bytes" in text


def test_stable_video_diffusion_makes_a_video_through_the_queue(tmp_path: Path, tiny_svd: Path) -> None:
    with running_stack(tmp_path, "gpu", ENGINE="svd-xt", MODEL_ID=str(tiny_svd)) as stack:
        fields = {"width": 128, "height": 64, "num_frames": 5, "num_inference_steps": 3, "seed": 11}
        task_id = stack.upload(CAT, **fields)
        body = stack.wait_for(task_id, timeout=120)
        assert body["status"] == "finished", body["error"]
        assert frames_of(stack.video(task_id)) == (5, 128, 64, 7.0)
        assert set(body["receipt"]["seconds"]) == {"load", "encode_image", "denoise", "decode", "encode_video", "store"}
        again = stack.upload(CAT, **fields)
        assert stack.wait_for(again, timeout=120)["receipt"]["output_sha256"] == body["receipt"]["output_sha256"]
        fast = stack.wait_for(stack.upload(CAT, **fields, profile="fast"), timeout=120)
        assert (body["approximate"], body["receipt"]["approximation"]) == (False, None)
        assert (fast["approximate"], fast["receipt"]["approximation"]["full_every"]) == (True, 3)
        assert fast["receipt"]["output_sha256"] != body["receipt"]["output_sha256"]
        smooth = stack.wait_for(stack.upload(CAT, **fields, smooth_fps=30), timeout=120)
        assert smooth["status"] == "finished", smooth["error"]
        assert frames_of(stack.video(smooth["task_id"])) == (4 * 30 // 7 + 1, 128, 64, 30.0)
        assert smooth["receipt"]["smoothing"]["method"] == "optical flow (DIS)"


def test_a_clip_of_more_frames_than_a_model_makes_at_once_is_made_in_parts(tmp_path: Path, tiny_svd: Path) -> None:
    with running_stack(tmp_path, "gpu", ENGINE="svd-xt", MODEL_ID=str(tiny_svd)) as stack:
        rates = {"fps": 9, "smooth_fps": 18}
        task_id = stack.upload(CAT, width=64, height=64, num_inference_steps=1, seed=11, seconds=3, **rates)
        long = stack.wait_for(task_id, timeout=240)
        assert long["status"] == "finished", long["error"]
        assert not long["warnings"]
        assert long["receipt"]["parameters"]["num_frames"] == 28  # the last one takes no time
        assert [each["seed"] for each in long["receipt"]["parts"]] == [11, 12]
        assert frames_of(stack.video(task_id)) == (3 * 18 + 1, 64, 64, 18.0)


def test_turbo_makes_a_video_when_a_task_asks_for_it(tmp_path: Path, tiny_svd: Path) -> None:
    from harness.tiny_svd import build_tiny_turbo  # torch takes seconds to import

    file = build_tiny_turbo(tmp_path / "models")
    cache = {"HF_HOME": str(tmp_path / "models"), "HF_HUB_OFFLINE": "1"}
    with running_stack(tmp_path, "gpu", ENGINE="svd-xt", MODEL_ID=str(tiny_svd), **cache) as stack:
        fields = {"engine": "turbo", "width": 128, "height": 64, "num_frames": 5, "seed": 11, "max_guidance_scale": 2}
        task_id = stack.upload(CAT, **fields)
        body = stack.wait_for(task_id, timeout=120)
        assert body["status"] == "finished", body["error"]
        assert body["warnings"] == ["max_guidance_scale is not used by the engine turbo"]
        assert frames_of(stack.video(task_id)) == (5, 128, 64, 7.0)
        receipt = body["receipt"]
        assert (receipt["engine"], receipt["model"]) == ("turbo", str(tiny_svd))
        assert receipt["parameters"]["num_inference_steps"] == 4
        unet = {"model": "wangfuyun/AnimateLCM-SVD-xt", "name": file.name, "revision": file.parent.name}
        assert receipt["unet"] == unet


def test_missing_weights_are_said_in_one_line_and_shown(tmp_path: Path) -> None:
    with running_stack(tmp_path, "cpu", "gpu", ENGINE="auto", MODEL_ID=str(tmp_path / "nowhere")) as stack:

        def reason() -> str | None:
            engines = stack.client.get("/engines").json()["engines"]
            return next(engine["reason"] for engine in engines if engine["name"] == "svd-xt")

        wait_until(lambda: "nowhere" in (reason() or ""), 60, "the worker's reason")
        assert "\n" not in reason()
        response = stack.client.post("/generate", files={"file": CAT.read_bytes()}, data={"engine": "svd-xt"})
        assert (response.status_code, response.json()["error"]["code"]) == (503, "engine_unavailable")
