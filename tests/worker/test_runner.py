"""How an attempt ends, for each way in which it can."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from core.errors import EngineFailed, GpuLost, KinoraError, LedgerUnavailable, OutOfMemory, StorageUnavailable
from core.spec import Clip, ClipRequest, resolve
from core.task import NewStep, NewTask, Status, Task, new_id
from worker.attempt import Attempt, Stopped
from worker.runner import Kit, hand_over, reason_to_leave, run_step


def picture() -> bytes:
    data = BytesIO()
    Image.new("RGB", (64, 64), "teal").save(data, "PNG")
    return data.getvalue()


def enqueue(kit: Kit, data: bytes | None, **changes: object) -> tuple[str, str]:
    """(task id, step id) of a small clip, whose input is `data`; None: its input is missing."""
    request = ClipRequest(width=64, height=64, num_frames=2, seed=1)
    clip, _ = resolve(request, kit.renderers.preferred, kit.settings)
    clip = clip.model_copy(update=changes)
    task_id = new_id()
    steps = [NewStep("clip", "cpu", clip.model_dump())]
    task = NewTask(task_id, "", "preview", clip.model_dump(), f"tasks/{task_id}/input", "0" * 64, [], steps)
    if data is not None:
        kit.storage.put(task.input_key, data)
    ((step_id, _),) = kit.ledger.create(task)
    return task_id, step_id


def run(kit: Kit, data: bytes | None = None, **changes: object) -> Task:
    task_id, step_id = enqueue(kit, picture() if data is None else data, **changes)
    run_step(step_id, kit)
    return kit.ledger.task(task_id)


def outcomes(kit: Kit) -> dict[str, float]:
    samples = kit.metrics.steps.collect()[0].samples
    return {sample.labels["outcome"]: sample.value for sample in samples if sample.name.endswith("_total")}


def test_a_step_is_rendered_stored_and_finished(kit: Kit) -> None:
    task = run(kit)
    assert task.status == Status.FINISHED
    assert kit.storage.read(task.artifacts["video"])[4:8] == b"ftyp"
    assert kit.storage.read(task.artifacts["thumbnail"])[:2] == b"\xff\xd8"
    assert outcomes(kit) == {"finished": 1}


def test_the_receipt_says_all_that_is_needed_to_make_it_again(kit: Kit) -> None:
    receipt = run(kit).receipt
    assert receipt is not None
    assert set(receipt) == {
        *("engine", "model", "revision", "parameters", "seed", "device", "libraries"),
        *("input_sha256", "output_sha256", "output_bytes", "seconds"),
    }
    assert receipt["parameters"]["seed"] == receipt["seed"] == 1


def test_a_bell_for_a_step_that_is_done_or_unknown_does_nothing(kit: Kit) -> None:
    task_id, step_id = enqueue(kit, picture())
    run_step(step_id, kit)
    first = kit.ledger.task(task_id)
    run_step(step_id, kit)
    run_step("nobody", kit)
    assert kit.ledger.task(task_id) == first
    assert outcomes(kit) == {"finished": 1}


def test_a_picture_that_cannot_be_read_fails_the_task_with_its_code(kit: Kit) -> None:
    task = run(kit, b"no picture at all")
    assert task.error is not None
    assert (task.status, task.error.code) == (Status.FAILED, "image_unsupported")


def test_an_input_that_is_gone_fails_the_task(kit: Kit) -> None:
    task_id, step_id = enqueue(kit, None)
    run_step(step_id, kit)
    error = kit.ledger.task(task_id).error
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
    kit: Kit, error: Exception, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("worker.engines.preview.Preview.render", renders(error))
        task = run(kit)
    assert task.error is not None
    assert task.error.code == code
    assert "secret" not in task.error.message
    assert run(kit).status == Status.FINISHED


def test_a_disk_that_fills_up_while_encoding_fails_the_task_and_the_next_one_works(
    kit: Kit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    @contextmanager
    def on_a_full_disk(_purpose: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
            (Path(folder) / "video.mp4").symlink_to("/dev/full")
            yield Path(folder)

    with monkeypatch.context() as patch:
        patch.setattr("worker.steps.clip.scratch_folder", on_a_full_disk)
        task = run(kit)
    assert task.status == Status.FAILED
    assert task.error is not None
    assert (task.error.code, task.error.message[-23:]) == ("encoding_failed", "No space left on device")
    assert list((tmp_path / "data" / "storage" / "tasks" / task.task_id).rglob("*.mp4")) == []
    assert run(kit).status == Status.FINISHED


def test_an_attempt_that_was_stopped_records_nothing(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.engines.preview.Preview.render", renders(Stopped()))
    assert run(kit).status == Status.STARTED
    assert outcomes(kit) == {"stopped": 1}


@pytest.mark.parametrize(
    ("where", "error"), [("storage.put", StorageUnavailable), ("ledger.finish", LedgerUnavailable)]
)
def test_a_video_is_not_rendered_again_while_it_cannot_be_stored_or_recorded(
    kit: Kit, where: str, error: type[KinoraError], monkeypatch: pytest.MonkeyPatch
) -> None:
    renders, tries = [], []
    store, name = where.split(".")
    works, rendered = getattr(getattr(kit, store), name), kit.renderers.get("preview").render

    def away_twice(*arguments: object, **named: object) -> object:
        tries.append(1)
        if len(tries) in (2, 3):  # the first puts the input
            raise error("away")
        return works(*arguments, **named)

    if store == "ledger":
        tries.append(1)
    monkeypatch.setattr(getattr(kit, store), name, away_twice)
    monkeypatch.setattr(kit.renderers.loaded, "render", lambda *given: renders.append(1) or rendered(*given))
    assert run(kit).status == Status.FINISHED
    assert renders == [1]
    assert len(tries) >= 4


@pytest.mark.parametrize("error", [StorageUnavailable("away"), GpuLost("sticky")])
def test_what_another_attempt_may_do_better_is_tried_again(
    kit: Kit, error: KinoraError, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.ledger.RETRY_PAUSES", (0.0,))
    monkeypatch.setattr("worker.engines.preview.Preview.render", renders(error))
    task_id, step_id = enqueue(kit, picture())
    for attempt in (1, 2, 3):
        assert kit.ledger.task(task_id).status != Status.FAILED
        run_step(step_id, kit)
        assert outcomes(kit) == {"lost": attempt}
    ended = kit.ledger.task(task_id).error
    assert ended is not None
    assert ended.code == "attempts_exhausted"
    assert error.message in ended.message
    assert (reason_to_leave(kit) is not None) == isinstance(error, GpuLost)


def test_where_memory_runs_out_half_the_decode_chunk_is_tried_once(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int | None] = []
    rendered = kit.renderers.get("preview").render

    def tight(picture: object, clip: Clip, attempt: Attempt) -> object:
        asked.append(clip.decode_chunk_size)
        if clip.decode_chunk_size and clip.decode_chunk_size > 4:
            raise OutOfMemory("too big")
        return rendered(picture, clip, attempt)

    monkeypatch.setattr(kit.renderers.loaded, "render", tight)
    task = run(kit, decode_chunk_size=8)
    assert asked == [8, 4]
    assert task.status == Status.FINISHED
    assert task.warnings == ["the GPU's memory ran out with decode_chunk_size 8; this was made with 4"]
    assert task.receipt is not None
    assert task.receipt["parameters"]["decode_chunk_size"] == 4

    task = run(kit, decode_chunk_size=20)
    assert asked == [8, 4, 20, 10]
    assert task.error is not None
    assert task.error.code == "gpu_out_of_memory"
    assert run(kit).status == Status.FINISHED


def test_a_step_over_its_time_is_lost_at_its_next_check_point(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    kit.settings = kit.settings.model_copy(update={"step_time_limit": 0.2})

    def slow(picture: object, clip: object, attempt: Attempt) -> None:
        with attempt.phase("render"):
            while True:
                time.sleep(0.01)
                attempt.check()

    monkeypatch.setattr(kit.renderers.loaded, "render", slow)
    assert run(kit).status == Status.STARTED
    assert outcomes(kit) == {"lost": 1}


def test_a_step_that_is_handed_over_is_rung_for_and_uses_up_no_attempt(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_id, step_id = enqueue(kit, picture())
    rendered = kit.renderers.get("preview").render

    def told_to_stop(*given: object) -> object:
        hand_over(kit)
        return rendered(*given)

    with monkeypatch.context() as patch:
        patch.setattr(kit.renderers.loaded, "render", told_to_stop)
        for _ in range(5):
            run_step(step_id, kit)
    assert outcomes(kit) == {"stopped": 5}
    assert kit.queue.rung_for("cpu") == {step_id}
    run_step(step_id, kit)
    assert kit.ledger.task(task_id).status == Status.FINISHED


def test_a_worker_leaves_after_its_steps_or_with_too_much_memory(kit: Kit) -> None:
    run(kit)
    assert reason_to_leave(kit) is None
    steps = kit.settings.model_copy(update={"worker_max_steps": 1})
    memory = kit.settings.model_copy(update={"worker_max_memory_mb": 10})
    for kit.settings in (steps, memory):
        assert reason_to_leave(kit) is not None


def test_a_task_canceled_while_it_renders_is_not_finished(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    task_id, step_id = enqueue(kit, picture())
    rendered = kit.renderers.get("preview").render

    def cancel_then_render(*arguments: object) -> object:
        kit.ledger.cancel(task_id)
        return rendered(*arguments)

    monkeypatch.setattr(kit.renderers.loaded, "render", cancel_then_render)
    run_step(step_id, kit)
    assert kit.ledger.task(task_id).status == Status.CANCELED
    assert outcomes(kit) == {"stopped": 1}


def stored_of(kit: Kit, task_id: str) -> list[str]:
    folder = kit.settings.data_dir / "storage" / "tasks" / task_id
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_what_was_stored_for_a_task_deleted_meanwhile_is_deleted(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    task_id, step_id = enqueue(kit, picture())
    put = kit.storage.put

    def delete_then_put(key: str, data: bytes) -> None:
        kit.ledger.cancel(task_id)
        kit.storage.delete_task(task_id)
        kit.ledger.mark_expired(task_id)
        put(key, data)

    monkeypatch.setattr(kit.storage, "put", delete_then_put)
    run_step(step_id, kit)
    assert kit.ledger.task(task_id).status == Status.CANCELED
    assert stored_of(kit, task_id) == []
    assert outcomes(kit) == {"stopped": 1}


def test_a_result_whose_worker_was_not_told_that_it_counts_is_kept(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    finish = kit.ledger.finish

    def finish_unheard(*given: object, **named: object) -> object:
        if finish(*given, **named) is not None:
            raise LedgerUnavailable("the answer was lost")
        return None

    monkeypatch.setattr(kit.ledger, "finish", finish_unheard)
    task = run(kit)
    assert (task.status, outcomes(kit)) == (Status.FINISHED, {"stopped": 1})
    assert stored_of(kit, task.task_id) == ["input", "spritesheet.jpg", "thumbnail.jpg", "video.mp4"]


def test_a_storage_that_is_away_when_something_is_to_be_deleted_harms_nothing(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_id, step_id = enqueue(kit, picture())
    tried = []

    def away(*names: object) -> None:
        tried.append(names)
        raise StorageUnavailable("away")

    put = kit.storage.put
    monkeypatch.setattr(kit.storage, "put", lambda key, data: (kit.ledger.cancel(task_id), put(key, data)))
    monkeypatch.setattr(kit.storage, "delete_attempt", away)
    run_step(step_id, kit)
    assert tried == [(task_id, step_id, 1)]
    assert outcomes(kit) == {"stopped": 1}
