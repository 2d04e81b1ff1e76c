"""The service as its own processes: uploads, videos, and what happens when processes die."""

import signal
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import httpx2
import pytest
import sqlalchemy as sa
from PIL import Image

from core.db.tables import attempts, steps
from core.ledger.moves import Ledger
from harness.pictures import SAMPLES
from harness.servers import wait_until
from harness.stack import Stack, running_stack

CAT = SAMPLES / "cat.jpg"

SMALL = {"num_frames": 8, "width": 128, "height": 72}


@pytest.fixture
def rendering(stack: Stack) -> str:
    """The id of a task whose worker waits in the midst of rendering it."""
    return begun(stack)


def begun(stack: Stack) -> str:
    stack.gate.close("render", after=4)
    task_id = stack.upload(CAT, **SMALL)
    stack.wait_for_phase(task_id, "render")
    return task_id


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
    stack.gate.close("render", after=1)
    task_id, seen = stack.upload(CAT, **SMALL), [0]
    for after in (3, 5, 7):
        wait_until(lambda: stack.status(task_id)["progress"] > seen[-1], what="more progress")
        seen.append(stack.status(task_id)["progress"])
        stack.gate.close("render", after)
    stack.gate.open()
    body = stack.wait_for(task_id)
    assert (body["status"], body["progress"]) == ("finished", 100)
    assert seen == sorted(set(seen))
    assert seen[-1] < 100


def test_a_running_task_is_canceled_and_the_worker_is_free_again(stack: Stack, rendering: str) -> None:
    stack.client.post(f"/cancel/{rendering}")
    wait_until(lambda: "outcome=stopped" in log_of(stack, rendering), what="the end of the attempt")
    stack.gate.open()
    after = stack.upload(CAT, **SMALL)
    assert stack.wait_for(after)["status"] == "finished"
    assert stack.status(rendering)["status"] == "canceled"
    assert stack.client.get(f"/results/{rendering}").status_code == 410
    leftovers = list((stack.folder / "data" / "storage" / "tasks" / rendering).rglob("*.mp4"))
    assert leftovers == []


def log_of(stack: Stack, task_id: str) -> str:
    """What the workers said of a task."""
    logs = (path.read_text() for path in stack.folder.glob("worker-*.log"))
    return "\n".join(line for log in logs for line in log.splitlines() if task_id in line)


def test_a_task_whose_worker_is_killed_goes_to_another(stack: Stack, rendering: str) -> None:
    stack.kill("worker-cpu")
    stack.start_worker()
    wait_until(lambda: (stack.status(rendering)["step"] or {}).get("attempt") == 2, 30, "a second attempt")
    stack.gate.open()
    assert stack.wait_for(rendering)["status"] == "finished"
    assert frames_of(stack.video(rendering))[0] == SMALL["num_frames"]


def test_a_worker_that_is_told_to_stop_finishes_its_step_first(stack: Stack, rendering: str) -> None:
    pid = stack.processes["worker-cpu"].pid
    assert stack.kill("worker-cpu", signal.SIGTERM, then=stack.gate.open) == 0
    assert stack.status(rendering)["status"] == "finished"
    assert pid not in live_workers(stack)


def live_workers(stack: Stack) -> set[int]:
    """The processes that the service takes for live workers."""
    return {pid_of(worker) for worker in stack.client.get("/health").json()["queues"]["cpu"]["workers"]}


def pid_of(worker: dict[str, Any]) -> int:
    return int(worker["worker_id"].rsplit("-", 2)[1])


def test_a_worker_that_is_told_to_stop_gives_back_what_takes_too_long(stack: Stack) -> None:
    stack.kill("worker-cpu", signal.SIGTERM)
    stack.start_worker(SHUTDOWN_GRACE="0.3")
    task_id = begun(stack)
    assert stack.kill("worker-cpu", signal.SIGTERM) == 0
    stack.gate.open()
    stack.start_worker()
    assert stack.wait_for(task_id)["status"] == "finished"
    assert attempts_of(stack, task_id) == ["given_back", "finished"]


def finalizing_with_the_next_begun(stack: Stack, grace: str) -> list[str]:
    """Two tasks that one worker works on at once: the second waits until the first is finalized."""
    stack.kill("worker-cpu", signal.SIGTERM)
    stack.start_worker("worker-cpu", "--overlap", SHUTDOWN_GRACE=grace)
    stack.gate.close("encode_video", after=1)
    tasks = [stack.upload(CAT, **SMALL), stack.upload(CAT, **SMALL)]
    stack.wait_for(tasks[1], "started")
    stack.wait_for_phase(tasks[0], "encode_video")
    return tasks


def test_a_worker_that_is_told_to_stop_finishes_both_that_it_works_on(stack: Stack) -> None:
    tasks = finalizing_with_the_next_begun(stack, grace="60")
    assert stack.kill("worker-cpu", signal.SIGTERM, then=stack.gate.open) == 0
    assert [stack.status(task_id)["status"] for task_id in tasks] == ["finished"] * 2
    assert attempts_of(stack, *tasks) == ["finished"] * 2


def test_a_worker_that_is_told_to_stop_gives_both_back_that_it_works_on(stack: Stack) -> None:
    tasks = finalizing_with_the_next_begun(stack, grace="0.1")
    assert stack.kill("worker-cpu", signal.SIGTERM) == 0
    stack.gate.open()
    stack.start_worker()
    for task_id in tasks:
        assert stack.wait_for(task_id)["status"] == "finished"
    assert sorted(attempts_of(stack, *tasks)) == ["finished"] * 2 + ["given_back"] * 2


@pytest.mark.parametrize(("grace", "outcomes"), [("60", ["finished"]), ("0", ["given_back"])])
def test_a_worker_that_is_told_to_stop_while_one_step_is_only_finalized_ends_it_or_gives_it_back(
    stack: Stack, grace: str, outcomes: list[str]
) -> None:
    stack.kill("worker-cpu", signal.SIGTERM)
    stack.start_worker(SHUTDOWN_GRACE=grace)
    stack.gate.close("encode_video", after=1)
    task_id = stack.upload(CAT, **SMALL)
    stack.wait_for_phase(task_id, "encode_video")
    pid = stack.processes["worker-cpu"].pid
    assert stack.kill("worker-cpu", signal.SIGTERM, then=stack.gate.open if grace == "60" else lambda: None) == 0
    assert attempts_of(stack, task_id) == outcomes
    assert pid not in live_workers(stack)


def attempts_of(stack: Stack, *tasks: str) -> list[str]:
    """How the attempts at these tasks ended, in the order in which they began."""
    ledger = Ledger(f"sqlite:///{stack.folder}/data/kinora.db")
    query = sa.select(attempts.c.outcome).join(steps, steps.c.step_id == attempts.c.step_id)
    try:
        with ledger.database.connect() as connection:
            mine = query.where(steps.c.task_id.in_(tasks)).order_by(attempts.c.started_at)
            return list(connection.execute(mine).scalars())
    finally:
        ledger.close()


def test_a_worker_frozen_for_longer_than_its_lease_changes_nothing_when_it_wakes(stack: Stack, rendering: str) -> None:
    frozen = stack.processes["worker-cpu"]
    frozen.send_signal(signal.SIGSTOP)
    stack.gate.open()
    stack.start_worker("worker-cpu-2")
    body = stack.wait_for(rendering)
    assert body["status"] == "finished"
    frozen.send_signal(signal.SIGCONT)
    wait_until(lambda: "outcome=stopped" in log_of(stack, rendering), what="the end of the late attempt")
    assert stack.status(rendering) == body
    assert attempts_of(stack, rendering) == ["lost", "finished"]


def test_a_worker_leaves_after_its_number_of_steps_and_a_fresh_one_goes_on(stack: Stack) -> None:
    stack.kill("worker-cpu", signal.SIGTERM)
    stack.start_worker(WORKER_MAX_STEPS="2")
    tasks = [stack.upload(CAT, **SMALL) for _ in range(3)]
    worker = stack.processes.pop("worker-cpu")
    assert worker.wait(30) == 0
    stack.start_worker()
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
    waiting = [stack.upload(CAT, **SMALL) for _ in range(3)]
    stack.redis.client.flushall()
    stack.start_worker()
    for task_id in waiting:
        assert stack.wait_for(task_id)["status"] == "finished"


def test_a_task_accepted_while_redis_is_away_runs_when_it_is_back(stack: Stack) -> None:
    stack.redis.stop()
    task_id = stack.upload(CAT, **SMALL)
    assert stack.client.get("/health").json()["status"] == "degraded"
    stack.redis.start()
    assert stack.wait_for(task_id)["status"] == "finished"


@pytest.mark.parametrize("name", ["app", "keeper", "worker-cpu"])
def test_a_restart_of_each_process_loses_nothing(stack: Stack, name: str) -> None:
    stack.gate.close()
    tasks = [stack.upload(CAT, **SMALL) for _ in range(3)]
    stack.wait_for(tasks[0], "started")
    stack.kill(name)
    stack.start_missing()
    stack.wait_until_ready()
    stack.gate.open()
    for task_id in tasks:
        assert stack.wait_for(task_id)["status"] == "finished"


def test_two_workers_share_the_work(stack: Stack) -> None:
    stack.start_worker("worker-cpu-2")
    stack.gate.close()
    tasks = [stack.upload(CAT, **SMALL) for _ in range(2)]
    for task_id in tasks:
        stack.wait_for(task_id, "started")  # by one each: neither goes on
    stack.gate.open()
    for task_id in tasks:
        stack.wait_for(task_id)
    logs = [(stack.folder / f"{name}.log").read_text() for name in ("worker-cpu", "worker-cpu-2")]
    assert [sum(f"{task_id}" in log for log in logs) for task_id in tasks] == [1, 1]


def test_two_keepers_do_no_harm(stack: Stack) -> None:
    stack.start("keeper-2", "keeper")
    tasks = [stack.upload(CAT, **SMALL) for _ in range(3)]
    stack.redis.client.flushall()
    for task_id in tasks:
        assert stack.wait_for(task_id)["status"] == "finished"
    assert attempts_of(stack, *tasks) == ["finished"] * 3


def test_several_api_processes_add_up_in_one_metrics_page(tmp_path: Path) -> None:
    with running_stack(tmp_path, API_WORKERS="2") as stack:
        for _ in range(40):
            with stack.client.stream("GET", "/health/live", headers={"Connection": "close"}) as response:
                response.read()
        text = stack.client.get("/metrics").text
        line = next(line for line in text.splitlines() if 'route="/health/live"' in line and "requests_total" in line)
        assert float(line.split()[-1]) == 40


def test_a_worker_serves_its_own_metrics(stack: Stack) -> None:
    stack.kill("worker-cpu", signal.SIGTERM)
    stack.start_worker()
    stack.wait_for(stack.upload(CAT, **SMALL))
    (port,) = (
        worker["metrics_port"]
        for worker in stack.client.get("/health").json()["queues"]["cpu"]["workers"]
        if pid_of(worker) == stack.processes["worker-cpu"].pid
    )
    text = httpx2.get(f"http://127.0.0.1:{port}/metrics").text
    assert 'kinora_worker_steps_total{engine="preview",outcome="finished"} 1.0' in text
    assert 'kinora_worker_phase_seconds_count{engine="preview",phase="render"} 1.0' in text
    assert "process_resident_memory_bytes" in text


@pytest.fixture(scope="module")
def turbo_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from harness.tiny_svd import build_tiny_turbo  # torch takes seconds to import

    return build_tiny_turbo(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def svd_stack(tmp_path_factory: pytest.TempPathFactory, tiny_svd: Path, turbo_file: Path) -> Iterator[Stack]:
    folder, cache = tmp_path_factory.mktemp("svd"), {"HF_HOME": str(turbo_file.parents[4]), "HF_HUB_OFFLINE": "1"}
    one_thread = {"OMP_NUM_THREADS": "1"}  # so small a model gains nothing from a second one
    with running_stack(folder, "gpu", ENGINE="svd-xt", MODEL_ID=str(tiny_svd), **cache, **one_thread) as stack:
        yield stack


def test_stable_video_diffusion_makes_a_video_through_the_queue(svd_stack: Stack) -> None:
    fields = {"width": 128, "height": 64, "num_frames": 5, "num_inference_steps": 3, "seed": 11}
    task_id = svd_stack.upload(CAT, **fields)
    body = svd_stack.wait_for(task_id, timeout=120)
    assert body["status"] == "finished", body["error"]
    assert frames_of(svd_stack.video(task_id)) == (5, 128, 64, 7.0)
    assert set(body["receipt"]["seconds"]) == {"load", "encode_image", "denoise", "decode", "encode_video", "store"}
    again = svd_stack.upload(CAT, **fields)
    assert svd_stack.wait_for(again, timeout=120)["receipt"]["output_sha256"] == body["receipt"]["output_sha256"]
    fast = svd_stack.wait_for(svd_stack.upload(CAT, **fields, profile="fast"), timeout=120)
    assert (body["approximate"], body["receipt"]["approximation"]) == (False, None)
    assert (fast["approximate"], fast["receipt"]["approximation"]["full_every"]) == (True, 3)
    assert fast["receipt"]["output_sha256"] != body["receipt"]["output_sha256"]
    smooth = svd_stack.wait_for(svd_stack.upload(CAT, **fields, smooth_fps=30), timeout=120)
    assert smooth["status"] == "finished", smooth["error"]
    assert frames_of(svd_stack.video(smooth["task_id"])) == (4 * 30 // 7 + 1, 128, 64, 30.0)
    assert smooth["receipt"]["smoothing"]["method"] == "optical flow (DIS)"


def test_a_clip_of_more_frames_than_a_model_makes_at_once_is_made_in_parts(svd_stack: Stack) -> None:
    rates = {"fps": 9, "smooth_fps": 18}
    task_id = svd_stack.upload(CAT, width=64, height=64, num_inference_steps=1, seed=11, seconds=3, **rates)
    long = svd_stack.wait_for(task_id, timeout=240)
    assert long["status"] == "finished", long["error"]
    assert not long["warnings"]
    assert long["receipt"]["parameters"]["num_frames"] == 28  # the last one takes no time
    assert [each["seed"] for each in long["receipt"]["parts"]] == [11, 12]
    assert frames_of(svd_stack.video(task_id)) == (3 * 18 + 1, 64, 64, 18.0)


def test_turbo_makes_a_video_when_a_task_asks_for_it(svd_stack: Stack, turbo_file: Path, tiny_svd: Path) -> None:
    fields = {"engine": "turbo", "width": 128, "height": 64, "num_frames": 5, "seed": 11, "max_guidance_scale": 2}
    task_id = svd_stack.upload(CAT, **fields)
    body = svd_stack.wait_for(task_id, timeout=120)
    assert body["status"] == "finished", body["error"]
    assert body["warnings"] == ["max_guidance_scale is not used by the engine turbo"]
    assert frames_of(svd_stack.video(task_id)) == (5, 128, 64, 7.0)
    receipt = body["receipt"]
    assert (receipt["engine"], receipt["model"]) == ("turbo", str(tiny_svd))
    assert receipt["parameters"]["num_inference_steps"] == 4
    unet = {"model": "wangfuyun/AnimateLCM-SVD-xt", "name": turbo_file.name, "revision": turbo_file.parent.name}
    assert receipt["unet"] == unet


def test_missing_weights_are_said_in_one_line_and_shown(tmp_path: Path) -> None:
    with running_stack(tmp_path, "cpu", "gpu", ENGINE="auto", MODEL_ID=str(tmp_path / "nowhere")) as stack:
        stack.announced.add("engine_unavailable")

        def reason() -> str | None:
            engines = stack.client.get("/engines").json()["engines"]
            return next(engine["reason"] for engine in engines if engine["name"] == "svd-xt")

        wait_until(lambda: "nowhere" in (reason() or ""), 60, "the worker's reason")
        assert "\n" not in reason()
        response = stack.client.post("/generate", files={"file": CAT.read_bytes()}, data={"engine": "svd-xt"})
        assert (response.status_code, response.json()["error"]["code"]) == (503, "engine_unavailable")
