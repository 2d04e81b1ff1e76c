"""How an attempt ends, for each way in which it can."""

import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import structlog
from PIL import Image

from core.db.tables import steps
from core.engines.known import find_engine
from core.errors import EngineFailed, GpuLost, KinoraError, LedgerUnavailable, OutOfMemory, StorageUnavailable
from core.ids import new_id
from core.plan.clip import clip_graph
from core.plan.graph import Graph
from core.plan.steps import RenderClip
from core.requests.clip import Clip, ClipRequest
from core.requests.resolve import resolve
from core.status import Status
from core.storage import input_key
from core.task import NewStep, NewTask, Task
from harness.servers import wait_until
from tests.conftest import input_for
from tests.worker.conftest import clip_task, stored
from worker.attempt import Attempt, Stopped
from worker.engines.base import LoadedModel
from worker.engines.camera import Camera
from worker.engines.host import EngineHost
from worker.main import load_engine
from worker.run.lanes import Lane
from worker.run.runner import STEP_KINDS, WorkerContext, reason_to_leave, release_steps, resident_mb, run_claim
from worker.steps.base import Made, StepHandler


def picture() -> bytes:
    data = BytesIO()
    Image.new("RGB", (64, 64), "teal").save(data, "PNG")
    return data.getvalue()


def preview_of(context: WorkerContext) -> LoadedModel:
    return context.engine_host.loaded["preview"]


def small_clip(context: WorkerContext) -> Clip:
    request = ClipRequest(width=64, height=64, num_frames=2, seed=1)
    return resolve(request, context.engine_host.default_engine, context.settings)[0]


def enqueue(context: WorkerContext, data: bytes | None, **changes: object) -> tuple[str, str]:
    """(task id, step id) of a small clip, whose input is `data`; None: its input is missing."""
    clip = small_clip(context).model_copy(update=changes)
    task_id = new_id()
    steps = clip_graph(clip, context.engine_host.default_engine, "cpu", context.settings).new_steps()
    task = NewTask(task_id, "", "preview", clip.model_dump(), [input_for(task_id)], [], steps)
    if data is not None:
        context.storage.put(input_key(task.task_id, "picture"), data)
    ((step_id, _),) = context.ledger.create(task)
    return task_id, step_id


def run_step(step_id: str, context: WorkerContext) -> None:
    """This one, whoever's turn it is."""
    claim = context.ledger.claim(step_id, context.presence.worker_id, context.settings.lease_seconds)
    if claim:
        run_claim(claim, context)


def do(step_id: str, context: WorkerContext) -> None:
    """All of it, finalized too."""
    run_step(step_id, context)
    context.finalizer.wait()


def run(context: WorkerContext, data: bytes | None = None, **changes: object) -> Task:
    task_id, step_id = enqueue(context, picture() if data is None else data, **changes)
    do(step_id, context)
    return context.ledger.task(task_id)


def outcomes(context: WorkerContext) -> dict[str, float]:
    samples = context.metrics.steps.collect()[0].samples
    return {sample.labels["outcome"]: sample.value for sample in samples if sample.name.endswith("_total")}


def test_a_step_is_rendered_stored_and_finished(context: WorkerContext) -> None:
    task = run(context)
    assert task.status == Status.FINISHED
    assert stored(context, task.task_id, "video")[4:8] == b"ftyp"
    assert stored(context, task.task_id, "thumbnail")[:2] == b"\xff\xd8"
    assert outcomes(context) == {"finished": 1}


def test_the_receipt_says_all_that_is_needed_to_make_it_again(context: WorkerContext) -> None:
    receipt = run(context).receipt
    assert receipt is not None
    assert set(receipt) == {
        *("engine", "model", "revision", "parameters", "seed", "device", "libraries", "approximation"),
        *("input_sha256", "output_sha256", "output_bytes", "seconds", "encoder"),
    }
    assert receipt["encoder"].items() >= {"name": "libx264", "x264-params": "cpu-independent=1", "threads": 4}.items()
    assert receipt["parameters"]["seed"] == receipt["seed"] == 1


def test_a_bell_for_a_step_that_is_done_or_unknown_does_nothing(context: WorkerContext) -> None:
    task_id, step_id = enqueue(context, picture())
    do(step_id, context)
    first = context.ledger.task(task_id)
    do(step_id, context)
    do("nobody", context)
    assert context.ledger.task(task_id) == first
    assert outcomes(context) == {"finished": 1}


def test_a_picture_that_cannot_be_read_fails_the_task_with_its_code(context: WorkerContext) -> None:
    task = run(context, b"no picture at all")
    assert task.error is not None
    assert (task.status, task.error.code) == (Status.FAILED, "image_unreadable")


def test_an_input_that_is_gone_fails_the_task(context: WorkerContext) -> None:
    task_id, step_id = enqueue(context, None)
    do(step_id, context)
    error = context.ledger.task(task_id).error
    assert error is not None
    assert error.code == "input_missing"


def renders(error: Exception) -> Callable[..., None]:
    def render(*_: object) -> None:
        raise error

    return render


@pytest.mark.parametrize(
    ("error", "code"), [(EngineFailed("NaN"), "engine_failed"), (ZeroDivisionError("secret"), "internal_error")]
)
def test_an_engine_that_fails_ends_the_task_and_the_next_one_works(
    context: WorkerContext, error: Exception, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, structlog.testing.capture_logs() as lines:
        patch.setattr("worker.engines.camera.Camera.render", renders(error))
        task = run(context)
    assert task.error is not None
    assert task.error.code == code
    assert "secret" not in task.error.message
    (failed,) = [line for line in lines if line["event"] == "attempt_failed"]
    assert (failed["code"], failed["phase"]) == (code, "load"), "the last phase that had begun"
    assert "NaN" not in str(failed), "what an engine says may quote what was asked for"
    assert run(context).status == Status.FINISHED


def test_a_disk_that_fills_up_while_encoding_fails_the_task_and_the_next_one_works(
    context: WorkerContext, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    @contextmanager
    def on_a_full_disk(_context: WorkerContext) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
            (Path(folder) / "video.mp4").symlink_to("/dev/full")
            yield Path(folder)

    with monkeypatch.context() as patch:
        patch.setattr("worker.run.runner.attempt_folder", on_a_full_disk)
        task = run(context)
    assert task.status == Status.FAILED
    assert task.error is not None
    assert (task.error.code, task.error.message[-23:]) == ("encoding_failed", "No space left on device")
    assert list((tmp_path / "data" / "storage" / "tasks" / task.task_id).rglob("*.mp4")) == []
    assert run(context).status == Status.FINISHED


@pytest.mark.parametrize("name", ["thumbnail.jpg", "spritesheet.jpg"])
def test_a_disk_that_fills_up_while_what_shows_a_video_is_written_fails_the_task(
    context: WorkerContext, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    @contextmanager
    def on_a_full_disk(_context: WorkerContext) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
            (Path(folder) / name).symlink_to("/dev/full")
            yield Path(folder)

    monkeypatch.setattr("worker.run.runner.attempt_folder", on_a_full_disk)
    error = run(context).error
    assert error is not None
    assert (error.code, error.message) == ("encoding_failed", "the worker's disk: No space left on device")


def test_an_attempt_that_was_stopped_records_nothing(context: WorkerContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.engines.camera.Camera.render", renders(Stopped()))
    assert run(context).status == Status.STARTED
    assert outcomes(context) == {"stopped": 1}


@pytest.mark.parametrize(
    ("where", "error"), [("storage.put", StorageUnavailable), ("ledger.finish", LedgerUnavailable)]
)
def test_a_video_is_not_rendered_again_while_it_cannot_be_stored_or_recorded(
    context: WorkerContext, where: str, error: type[KinoraError], monkeypatch: pytest.MonkeyPatch
) -> None:
    renders, tries = [], []
    store, name = where.split(".")
    works, rendered = getattr(getattr(context, store), name), preview_of(context).render

    def away_twice(*arguments: object, **named: object) -> object:
        tries.append(1)
        if len(tries) in (2, 3):  # the first puts the input
            raise error("away")
        return works(*arguments, **named)

    if store == "ledger":
        tries.append(1)
    monkeypatch.setattr(getattr(context, store), name, away_twice)
    monkeypatch.setattr(preview_of(context), "render", lambda *given: renders.append(1) or rendered(*given))
    assert run(context).status == Status.FINISHED
    assert renders == [1]
    assert len(tries) >= 4


@pytest.mark.parametrize("error", [StorageUnavailable("away"), GpuLost("sticky")])
def test_what_another_attempt_may_do_better_is_tried_again(
    context: WorkerContext, error: KinoraError, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.ledger.retries.RETRY_PAUSES", (0.0,))
    monkeypatch.setattr("worker.engines.camera.Camera.render", renders(error))
    task_id, step_id = enqueue(context, picture())
    for attempt in (1, 2, 3):
        assert context.ledger.task(task_id).status != Status.FAILED
        do(step_id, context)
        assert outcomes(context) == {"lost": attempt}
    ended = context.ledger.task(task_id).error
    assert ended is not None
    assert ended.code == "attempts_exhausted"
    assert error.message in ended.message
    assert (reason_to_leave(context) is not None) == isinstance(error, GpuLost)


def test_where_memory_runs_out_the_clip_is_made_another_way_for_as_long_as_there_is_one(
    context: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int | None] = []
    engine = preview_of(context)
    rendered = engine.render

    def tight(picture: object, clip: Clip, attempt: Attempt) -> object:
        attempt.phase_name = "decode"
        tried.append(clip.decode_chunk_size)
        if clip.decode_chunk_size and clip.decode_chunk_size > 4:
            raise OutOfMemory("too big")
        return rendered(picture, clip, attempt)

    def halve(clip: Clip, settled: Clip, phase: str | None) -> Clip | None:
        assert (clip.decode_chunk_size, phase) == (tried[0], "decode")
        half = (settled.decode_chunk_size or 0) // 2
        return settled.model_copy(update={"decode_chunk_size": half}) if half > 3 else None

    monkeypatch.setattr(engine, "render", tight)
    monkeypatch.setattr(engine, "with_memory_plan", lambda clip: clip.model_copy(update={"memory_plan": "24 GB"}))
    monkeypatch.setattr(engine, "with_smaller_plan", halve)
    task = run(context, decode_chunk_size=16)
    assert tried == [16, 8, 4]
    assert task.status == Status.FINISHED
    assert task.warnings == [
        f"the GPU's memory ran out with the memory plan 24 GB and decode_chunk_size {chunk}; "
        f"this was made with the memory plan 24 GB and decode_chunk_size {chunk // 2}"
        for chunk in (16, 8)
    ]
    assert task.receipt is not None
    assert task.receipt["parameters"]["decode_chunk_size"] == 4

    tried.clear()
    task = run(context, decode_chunk_size=6)
    assert tried == [6]
    assert task.error is not None
    assert (task.error.code, task.error.message) == ("gpu_out_of_memory", "too big")
    assert run(context).status == Status.FINISHED


def test_a_step_over_its_time_is_lost_at_its_next_check_point(
    context: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    context.settings = context.settings.model_copy(update={"step_time_limit": 0.2})

    def slow(picture: object, clip: object, attempt: Attempt) -> None:
        with attempt.phase("render"):
            while True:
                time.sleep(0.01)
                attempt.check()

    monkeypatch.setattr(preview_of(context), "render", slow)
    assert run(context).status == Status.STARTED
    assert outcomes(context) == {"lost": 1}


def test_a_step_that_is_handed_over_is_rung_for_and_uses_up_no_attempt(
    context: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_id, step_id = enqueue(context, picture())
    rendered = preview_of(context).render

    def told_to_stop(*given: object) -> object:
        release_steps(context)
        return rendered(*given)

    with monkeypatch.context() as patch:
        patch.setattr(preview_of(context), "render", told_to_stop)
        for _ in range(5):
            do(step_id, context)
    assert outcomes(context) == {"stopped": 5}
    assert context.queue.queued_ids("cpu") == {step_id}
    do(step_id, context)
    assert context.ledger.task(task_id).status == Status.FINISHED


def test_a_worker_claims_the_step_whose_turn_it_is_whatever_woke_it(context: WorkerContext) -> None:
    tasks = [enqueue(context, picture())[0] for _ in range(2)]
    for done in (1, 2):
        Lane(context).run_next()
        context.finalizer.wait()
        assert [context.ledger.task(task_id).status.is_final for task_id in tasks] == [True, done == 2]
    Lane(context).run_next()
    assert outcomes(context) == {"finished": 2}


class Plans(StepHandler):
    def finish(self) -> Made:
        clip = Clip.model_validate(self.claim.task.params)
        engine = find_engine(clip.engine, self.context.pictures.settings)
        return Made([], {"planned": 1}, clip_graph(clip, engine, "cpu", self.context.pictures.settings))


def test_what_a_step_plans_is_done_behind_it_and_makes_the_result(
    context: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(STEP_KINDS, "plans", Plans)
    task = replace(clip_task(context, small_clip(context)), steps=[NewStep("plans", "cpu", reserved_weight=9.0)])
    context.storage.put(input_key(task.task_id, "picture"), picture())
    context.ledger.create(task)
    Lane(context).run_next()
    planning, clip = context.ledger.task_with_steps(task.task_id)[1]
    assert (planning.status, planning.receipt, clip.status) == (Status.FINISHED, {"planned": 1}, Status.QUEUED)
    assert clip.step_id in context.queue.queued_ids("cpu"), "a worker is woken for it"
    Lane(context).run_next()
    assert context.ledger.task(task.task_id).status == Status.FINISHED
    assert stored(context, task.task_id, "video")[4:8] == b"ftyp"


def test_a_worker_leaves_after_its_steps_or_with_too_much_memory(context: WorkerContext) -> None:
    enqueue(context, picture())
    Lane(context).run_next()
    assert reason_to_leave(context) is None
    steps = context.settings.model_copy(update={"worker_max_steps": 1})
    memory = context.settings.model_copy(update={"worker_max_memory_mb": 10})
    for context.settings in (steps, memory):
        assert reason_to_leave(context) is not None


def test_a_task_canceled_while_it_renders_is_not_finished(
    context: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_id, step_id = enqueue(context, picture())
    rendered = preview_of(context).render

    def cancel_then_render(*arguments: object) -> object:
        context.ledger.cancel(task_id)
        return rendered(*arguments)

    monkeypatch.setattr(preview_of(context), "render", cancel_then_render)
    do(step_id, context)
    assert context.ledger.task(task_id).status == Status.CANCELED
    assert outcomes(context) == {"stopped": 1}


def stored_of(context: WorkerContext, task_id: str) -> list[str]:
    folder = context.settings.data_dir / "storage" / "tasks" / task_id
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_what_was_stored_for_a_task_deleted_meanwhile_is_deleted(
    context: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_id, step_id = enqueue(context, picture())
    put = context.storage.put

    def delete_then_put(key: str, data: bytes) -> None:
        context.ledger.cancel(task_id)
        context.storage.delete_task(task_id)
        context.ledger.mark_expired(task_id)
        put(key, data)

    monkeypatch.setattr(context.storage, "put", delete_then_put)
    do(step_id, context)
    assert context.ledger.task(task_id).status == Status.CANCELED
    assert stored_of(context, task_id) == []
    assert outcomes(context) == {"stopped": 1}


def test_a_result_whose_worker_was_not_told_that_it_counts_is_kept(
    context: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = context.ledger.finish

    def finish_unheard(*given: object, **named: object) -> object:
        if finish(*given, **named) is not None:
            raise LedgerUnavailable("the answer was lost")
        return None

    monkeypatch.setattr(context.ledger, "finish", finish_unheard)
    task = run(context)
    assert (task.status, outcomes(context)) == (Status.FINISHED, {"stopped": 1})
    assert stored_of(context, task.task_id) == ["picture", "spritesheet.jpg", "thumbnail.jpg", "video.mp4"]


def test_a_storage_that_is_away_when_something_is_to_be_deleted_harms_nothing(
    context: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_id, step_id = enqueue(context, picture())
    tried = []

    def away(*names: object) -> None:
        tried.append(names)
        raise StorageUnavailable("away")

    put = context.storage.put
    monkeypatch.setattr(context.storage, "put", lambda key, data: (context.ledger.cancel(task_id), put(key, data)))
    monkeypatch.setattr(context.storage, "delete_attempt", away)
    do(step_id, context)
    assert tried == [(task_id, step_id, 1)]
    assert outcomes(context) == {"stopped": 1}


@contextmanager
def while_finalizing(
    context: WorkerContext, monkeypatch: pytest.MonkeyPatch, **changes: object
) -> Iterator[tuple[str, Callable[[], None]]]:
    """A step that is being finalized until it is let go, beside others as on a GPU: its task, and how to let it go."""
    monkeypatch.setattr("worker.run.runner.overlaps", lambda _kit: True)
    task_id, step_id = enqueue(context, picture(), **changes)
    put, may_go = context.storage.put, threading.Event()

    def slowly(key: str, data: bytes) -> None:
        if task_id in key:
            assert may_go.wait(30)
        put(key, data)

    monkeypatch.setattr(context.storage, "put", slowly)
    run_step(step_id, context)
    try:
        yield task_id, may_go.set
    finally:
        may_go.set()
        context.finalizer.wait()


def test_the_next_clip_renders_while_the_one_before_is_stored(
    context: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered, seen = preview_of(context).render, []
    with while_finalizing(context, monkeypatch) as (first, let_go):

        def render(*given: object) -> object:
            seen.append(context.ledger.task(first).status)
            frames = rendered(*given)
            let_go()
            return frames

        monkeypatch.setattr(preview_of(context), "render", render)
        second = run(context)
    assert seen == [Status.STARTED]
    assert (context.ledger.task(first).status, second.status) == (Status.FINISHED, Status.FINISHED)
    assert context.running == []


def test_a_clip_waits_with_its_frames_until_the_one_before_is_finalized_and_can_be_canceled_there(
    context: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    with while_finalizing(context, monkeypatch) as (first, _):
        task_id, step_id = enqueue(context, picture())
        check, kept = context.finalizer.wait, []

        def cancel_then_wait(*given: object) -> None:
            kept.extend(context.running)
            context.ledger.cancel(task_id)
            check(*given)

        with monkeypatch.context() as patch:
            patch.setattr(context.finalizer, "wait", cancel_then_wait)
            run_step(step_id, context)
        assert len(kept) == 2
        assert context.ledger.task(task_id).status == Status.CANCELED
        assert stored_of(context, task_id) == ["picture"]
        assert context.ledger.task(first).status == Status.STARTED
    assert context.ledger.task(first).status == Status.FINISHED
    assert outcomes(context) == {"stopped": 1, "finished": 1}


def test_what_a_finalize_stage_meets_ends_its_own_task_only(
    context: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    with while_finalizing(context, monkeypatch) as (first, let_go):
        monkeypatch.setattr("worker.steps.clip.write_receipt", renders(EngineFailed("no receipt")))
        task_id, step_id = enqueue(context, picture())
        let_go()
        context.finalizer.wait()
        monkeypatch.undo()
        do(step_id, context)
    error = context.ledger.task(first).error
    assert error is not None
    assert error.code == "engine_failed"
    assert context.ledger.task(task_id).status == Status.FINISHED


def test_a_step_finalized_and_one_rendered_are_both_handed_over_and_the_first_comes_first_again(
    context: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered = preview_of(context).render

    def told_to_stop(*given: object) -> object:
        release_steps(context)
        return rendered(*given)

    with while_finalizing(context, monkeypatch) as (first, _):
        monkeypatch.setattr(preview_of(context), "render", told_to_stop)
        task_id, step_id = enqueue(context, picture())
        (_, (first_step,)) = context.ledger.task_with_steps(first)
        run_step(step_id, context)
    assert outcomes(context) == {"stopped": 2}
    assert context.queue.redis.lrange("rq:queue:cpu", 0, -1) == [first_step.step_id.encode(), step_id.encode()]
    monkeypatch.undo()
    for task, step in ((first, first_step.step_id), (task_id, step_id)):
        do(step, context)
        assert context.ledger.task(task).status == Status.FINISHED


@pytest.mark.parametrize("part", [{}, {"adds": 5, "continuity": True}])
def test_the_frames_are_let_go_before_the_storage_is_waited_for(
    context: WorkerContext, part: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = []

    def render(_: object, clip: Clip, __: object) -> object:
        made = np.zeros((clip.num_frames, clip.height, clip.width, 3), np.uint8)
        frames.append(weakref.ref(made))
        return made

    monkeypatch.setattr(preview_of(context), "render", render)
    validate = RenderClip.model_validate
    monkeypatch.setattr(RenderClip, "model_validate", lambda given: validate(given).model_copy(update=part))
    with while_finalizing(context, monkeypatch, num_frames=10):
        wait_until(lambda: frames[0]() is None, what="the end of the frames")
    assert len(frames) == 1


def test_each_line_of_the_log_names_the_task_that_it_is_about(
    context: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        structlog.testing.capture_logs([structlog.contextvars.merge_contextvars]) as lines,
        while_finalizing(context, monkeypatch) as (first, let_go),
    ):
        let_go()
        second = run(context).task_id
    ends = {line["task_id"] for line in lines if line["event"] == "attempt_ended"}
    assert ends == {first, second}


def test_the_engines_seconds_are_counted(context: WorkerContext) -> None:
    run(context)
    value = context.metrics.registry.get_sample_value
    busy = value("kinora_worker_engine_busy_seconds_total", {"engine": "preview"})
    render = value("kinora_worker_phase_seconds_sum", {"engine": "preview", "phase": "render"})
    assert busy is not None
    assert render is not None
    assert busy >= render > 0


def test_the_picture_of_the_next_clip_is_decoded_while_this_one_renders(
    context: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, first_step = enqueue(context, picture())
    second, second_step = enqueue(context, picture())
    rendered, read, reads = preview_of(context).render, context.storage.read, []

    def noted(key: str) -> bytes:
        reads.append((key.split("/")[1], threading.current_thread().name))
        return read(key)

    def render(*given: object) -> object:
        wait_until(lambda: context.pictures._ahead is not None, what="the next picture")
        return rendered(*given)

    monkeypatch.setattr(context.storage, "read", noted)
    with monkeypatch.context() as patch:
        patch.setattr(preview_of(context), "render", render)
        do(first_step, context)
    do(second_step, context)
    assert context.ledger.task(second).status == Status.FINISHED
    assert len(reads) == 2
    assert dict(reads) == {first: "MainThread", second: "ahead"}


def test_a_clip_does_not_wait_for_the_picture_of_the_next_one(
    context: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, first_step = enqueue(context, picture())
    _, second_step = enqueue(context, picture())
    decode, begun, first_is_done = context.pictures._decode, threading.Event(), threading.Event()
    let_go: list[bool] = []

    def slow(clip: Clip, data: bytes) -> Image.Image:
        if threading.current_thread().name == "ahead":
            begun.set()
            let_go.append(first_is_done.wait(30))
        else:
            begun.wait(30)
        return decode(clip, data)

    monkeypatch.setattr(context.pictures, "_decode", slow)
    do(first_step, context)
    assert context.ledger.task(first).status == Status.FINISHED
    assert begun.is_set()
    assert context.pictures._ahead is not None
    assert context.pictures._ahead[0] == second_step
    first_is_done.set()
    wait_until(lambda: bool(let_go), what="the picture of the next one")
    assert let_go == [True], "the first clip was done before it"


def test_a_picture_is_fitted_where_it_is_read_if_its_engine_wants_it_so(context: WorkerContext) -> None:
    """On a GPU that is beside the clip before."""
    data = BytesIO()
    Image.new("RGB", (640, 480), "teal").save(data, "PNG")
    context.storage.put("tasks/t/inputs/picture", data.getvalue())
    for engine, size in (("svd-xt", (128, 64)), ("preview", (640, 480))):
        found = context.engine_host.find(engine)
        clip, _ = resolve(ClipRequest(width=128, height=64, seed=1), found, context.settings)
        params = RenderClip(engine=engine, settings=clip.settings, crf=18)
        assert context.pictures._decode(params, input_for("t")).size == size


def test_what_was_read_ahead_is_given_to_its_own_step_alone(context: WorkerContext) -> None:
    engine = context.engine_host.find("svd-xt")
    steps = []
    for width in (128, 192):
        clip, _ = resolve(ClipRequest(width=width, height=64, seed=1), engine, context.settings)
        steps += [replace(step, name=str(width)) for step in clip_graph(clip, engine, "cpu", context.settings).steps]
    task = NewTask(new_id(), "", "svd-xt", {}, [input_for("t")], [], Graph(tuple(steps), "128").new_steps())
    context.storage.put(task.inputs[0].key, picture())
    ready = context.ledger.create(task)
    one, other = (context.ledger.claim(each.step_id, "w", 60) for each in ready)
    assert one is not None
    assert other is not None
    its = RenderClip.model_validate(other.step.params)
    context.pictures._read_ahead(other.step, its, task.inputs[0], lambda: False)
    found = [
        context.pictures.get(claim, RenderClip.model_validate(claim.step.params), Attempt()).width
        for claim in (one, other)
    ]
    assert found == [128, 192]


@pytest.mark.parametrize("data", [None, b"no picture at all"])
def test_a_picture_that_cannot_be_read_ahead_costs_only_its_own_task(
    context: WorkerContext, data: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, first_step = enqueue(context, picture())
    second, second_step = enqueue(context, data)
    rendered, read, reads = preview_of(context).render, context.storage.read, []
    monkeypatch.setattr(context.storage, "read", lambda key: (reads.append(key), read(key))[1])
    with monkeypatch.context() as patch:
        tried = lambda: f"tasks/{second}/inputs/picture" in reads  # noqa: E731 - one expression, used here alone
        patch.setattr(preview_of(context), "render", lambda *given: (wait_until(tried), rendered(*given))[1])
        do(first_step, context)
    do(second_step, context)
    assert context.ledger.task(first).status == Status.FINISHED
    error = context.ledger.task(second).error
    assert error is not None
    assert error.code == ("image_unreadable" if data else "input_missing")


def test_a_picture_read_ahead_for_another_worker_is_not_used(
    context: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, first_step = enqueue(context, picture())
    theirs, their_step = enqueue(context, picture())
    rendered = preview_of(context).render
    there = lambda: context.pictures._ahead is not None  # noqa: E731 - one expression, used here alone
    with monkeypatch.context() as patch:
        patch.setattr(preview_of(context), "render", lambda *given: (wait_until(there), rendered(*given))[1])
        do(first_step, context)
    assert context.ledger.claim(their_step, "another", 60) is not None
    mine, my_step = enqueue(context, b"no picture at all")
    do(my_step, context)
    assert [context.ledger.task(task_id).status for task_id in (first, theirs, mine)] == [
        "finished",
        "started",
        "failed",
    ]


def test_a_worker_whose_gpu_is_lost_as_it_loads_leaves_and_says_why_meanwhile(
    context: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.main.RELOAD_SECONDS", 0.0)
    monkeypatch.setattr(context.engine_host, "get", renders(GpuLost("the GPU failed")))
    load_engine(context)
    assert reason_to_leave(context) == "the GPU is lost to this process"
    (worker,) = context.ledger.workers()
    assert {said["reason"] for said in worker.engines.values()} == {"the GPU failed"}


def test_on_the_cpu_the_next_step_begins_when_the_one_before_is_over(context: WorkerContext) -> None:
    task_id, step_id = enqueue(context, picture())
    run_step(step_id, context)
    assert context.running == []
    assert context.ledger.task(task_id).status == Status.FINISHED


@pytest.mark.parametrize(
    ("error", "outcome"), [(EngineFailed("it broke"), "failed"), (GpuLost("sticky"), "lost"), (KeyError("k"), "failed")]
)
def test_nothing_is_left_of_an_attempt_that_ends_after_it_stored(
    context: WorkerContext, error: Exception, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(context.ledger, "finish", broken)
    task = run(context)
    assert outcomes(context) == {outcome: 1}
    assert stored_of(context, task.task_id) == ["picture"]


def test_a_clip_is_not_as_slow_as_the_one_before_whose_end_it_waited_for(
    context: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, float] = {}
    finish, wait = context.ledger.finish, context.finalizer.wait

    def finished(*given: object, **named: float) -> object:
        told.update(named)
        return finish(*given, **named)

    def wait_long(*check: Callable[[], None]) -> None:
        time.sleep(0.2)
        wait(*check)

    monkeypatch.setattr(context.ledger, "finish", finished)
    monkeypatch.setattr(context.finalizer, "wait", wait_long)
    run(context)
    assert told["waited_seconds"] >= 0.2


@pytest.mark.parametrize("seconds", [30.0, 0.0])
def test_on_a_gpu_steps_of_a_loaded_engine_go_first_for_a_bounded_time(
    context: WorkerContext, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    monkeypatch.setattr(EngineHost, "device", "cuda")
    monkeypatch.setattr("worker.run.runner.LOADED_FIRST_SECONDS", seconds)
    other, *later = (enqueue(context, picture())[0] for _ in range(3))
    with context.ledger.database.begin() as connection:
        connection.execute(steps.update().where(steps.c.task_id == other).values(engine="svd-xt"))
    expected = [*later, other] if seconds else [other, *later]
    for number in range(3):
        Lane(context).run_next()
        context.finalizer.wait()
        finished = {task_id for task_id in expected if context.ledger.task(task_id).status == Status.FINISHED}
        assert finished == set(expected[: number + 1])


def test_memory_is_counted_in_megabytes() -> None:
    assert resident_mb() == pytest.approx(psutil.Process().memory_info().rss / 1e6, rel=0.1)


def test_an_engine_makes_room_before_another_is_loaded(context: WorkerContext, monkeypatch: pytest.MonkeyPatch) -> None:
    host, unloaded = context.engine_host, []
    monkeypatch.setattr(host.loaded["preview"], "unload", lambda: unloaded.append(list(host.loaded)))
    monkeypatch.setattr("worker.engines.host.create_engine", Camera)
    second = host.get(host.find("svd"))
    assert (host.loaded, unloaded) == ({"svd": second}, [[]])
    assert (host.loads, host.unloads) == ({"preview": 1, "svd": 1}, {"preview": 1})
