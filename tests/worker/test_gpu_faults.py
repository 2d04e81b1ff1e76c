"""What the names mean under which a GPU's faults come, and what an engine makes of each in each phase."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from core.config.settings import Settings
from core.engines.known import find_engine
from core.errors import EngineFailed, EngineUnavailable, GpuLost, OutOfMemory
from core.requests.clip import Clip
from tests.worker.conftest import SVD_MARKS
from worker.attempt import Attempt
from worker.engines import gpu_faults
from worker.engines.gpu_memory import GpuMemory
from worker.engines.svd.svd import Svd

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from worker.engines.gpu_faults import Fault, fault_of
from worker.engines.svd import frames, memory, speedups
from worker.engines.svd.memory import needed
from worker.engines.svd.weights import fetch

pytestmark = SVD_MARKS

Failing = Callable[[], Exception]


def accelerator(message: str, code: int | None = None) -> Exception:
    error = torch.AcceleratorError(message)
    if code is not None:
        error.error_code = code
    return error


def wrapped(inner: Exception) -> Exception:
    """As torch.compile passes on what its backend raises."""
    outer = RuntimeError("backend='inductor' raised:")
    outer.__cause__ = inner
    return outer


NO_MEMORY: dict[str, Failing] = {
    "torch's allocator": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.10 GiB"),
    "a kernel's lazy load": lambda: accelerator("CUDA error: out of memory", 2),
    "the same without its code": lambda: accelerator("CUDA error: out of memory"),
    "cuBLAS": lambda: RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "cuDNN": lambda: RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    "cuDNN's workspace": lambda: RuntimeError("GET was unable to find an engine to execute this computation"),
    "triton": lambda: RuntimeError("Triton Error [CUDA]: out of memory"),
    "the driver": lambda: RuntimeError("CUDA driver error: out of memory"),
    "the compiler": lambda: wrapped(torch.OutOfMemoryError("CUDA out of memory.")),
}
STICKY: dict[str, Failing] = {
    "torch": lambda: accelerator("CUDA error: an illegal memory access was encountered", 700),
    "triton": lambda: RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
    "the driver": lambda: RuntimeError("CUDA driver error: an illegal memory access was encountered"),
    "cuBLAS": lambda: RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling cublasGemmEx"),
}


@pytest.fixture
def lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU on which every call fails."""

    def fail() -> None:
        raise accelerator("CUDA error: an illegal memory access was encountered", 700)

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", fail)


def almost_full(monkeypatch: pytest.MonkeyPatch, free: int = 1) -> None:
    """A GPU of which `free` of 24 are free, and one more that torch holds idle."""
    answers = {"is_initialized": True, "synchronize": None, "mem_get_info": (free, 24)}
    for name, answer in (answers | {"memory_reserved": 20, "memory_allocated": 19}).items():
        monkeypatch.setattr(torch.cuda, name, lambda answer=answer: answer)


@pytest.mark.parametrize("name", NO_MEMORY)
def test_memory_that_ran_out_is_known_by_each_of_its_names(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    almost_full(monkeypatch)
    assert fault_of(NO_MEMORY[name]()) is Fault.MEMORY


def test_cudnn_that_has_no_way_though_there_is_memory_has_none_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    almost_full(monkeypatch, free=2)
    assert fault_of(NO_MEMORY["cuDNN's workspace"]()) is Fault.FAILED


@pytest.mark.usefixtures("lost")
@pytest.mark.parametrize("name", STICKY)
def test_a_gpu_that_answers_no_more_is_lost_whatever_the_error_is_called(name: str) -> None:
    assert fault_of(STICKY[name]()) is Fault.LOST


@pytest.mark.parametrize("name", STICKY)
def test_what_fails_on_a_gpu_that_still_answers_failed_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    assert fault_of(STICKY[name]()) is Fault.FAILED


def test_words_like_those_in_another_place_are_no_lack_of_memory() -> None:
    for message in ("the picture shows a memory out of focus", "CUDA error: invalid argument"):
        assert fault_of(RuntimeError(message)) is Fault.FAILED
    assert fault_of(ValueError("CUDA error: out of memory")) is Fault.FAILED


def test_tensors_of_the_frames_that_failed_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    freed: list[str] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: freed.append("idle blocks"))

    class Held:
        def __del__(self) -> None:
            freed.append("tensor")

    def work() -> None:
        held = Held()  # noqa: F841 - what the frame holds
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with (
        pytest.raises(OutOfMemory) as caught,
        gpu_faults.told_apart(lambda: "a test", lambda: "too large"),
    ):
        work()
    assert freed == ["tensor", "idle blocks"]
    assert caught.value.message == "too large"


# An engine on a card


PHASES = {"load": "place", "encode": "read_conditions", "denoise": "denoise", "decode": "decode"}
"""What is called in each phase, in worker/engines/svd/frames.py."""
NEXT = {
    "load": ["24 GB", "8 GB"],
    "encode": ["24 GB", "8 GB"],
    "denoise": ["24 GB", "12 GB", "8 GB"],
    "decode": ["24 GB", "16 GB", "12 GB", "8 GB"],
}
"""The plans that need less in that phase than the one before: where the weights are all there, the UNet in parts needs
no less to encode."""


class Card:
    """An engine that takes itself for one on a GPU whose memory runs out in some phase of some plans. Its models are
    not asked for anything: what they make is tests/worker/test_memory.py's."""

    def __init__(self, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch
        settings = Settings(_env_file=None, model_id=str(model), video_width=64, video_height=64, video_frames=25)
        self.engine = Svd(find_engine("svd-xt", settings), settings, GpuMemory())
        self.model = model
        self.tried: list[str] = []
        self.failing: dict[str, tuple[tuple[str, ...], Failing]] = {}
        self._watch()
        monkeypatch.setattr(memory, "total_bytes", lambda: 10**12)

    def hold(self, speed_ups: tuple[speedups.SpeedUp, ...] = speedups.ON_GPU) -> None:
        self.engine.hold(fetch(str(self.model), None, torch.float32), speed_ups, "cuda")
        self.tried.clear()

    def runs_out(self, phase: str, *plans: str, error: Failing = NO_MEMORY["torch's allocator"]) -> None:
        """In that phase of a clip of more than two frames that is made by one of `plans`."""
        self.failing[phase] = plans, error

    def _watch(self) -> None:
        make = frames.make_frames

        def noted(pipeline: Any, picture: Any, clip: Clip, *given: Any) -> Any:
            self.tried.append(str(clip.memory_plan) if clip.num_frames > 2 else "small")
            return make(pipeline, picture, clip, *given)

        def failing(phase: str, work: Callable[..., Any]) -> Callable[..., Any]:
            def works(*given: Any) -> Any:
                plans, error = self.failing.get(phase, ((), RuntimeError))
                if self.tried[-1] in plans:
                    raise error()
                return work(*given)

            return works

        self.monkeypatch.setattr(frames, "make_frames", noted)
        there = torch.zeros(1)
        made = {"place": None, "read_conditions": SimpleNamespace(noise=there), "denoise": there, "decode": np.zeros(1)}
        for phase, name in PHASES.items():
            self.monkeypatch.setattr(frames, name, failing(phase, lambda *_, name=name: made[name]))

    def render(self, **changes: Any) -> tuple[Clip, list[str]]:
        """The clip as it was made in the end, as the step kind `clip` goes about it."""
        from worker.steps.clip import _render

        clip = self.engine._usual_clip().model_copy(update={"num_inference_steps": 1} | changes)
        attempt = Attempt()
        picture = Image.new("RGB", (64, 64))
        _, made = _render(self.engine, picture, clip, self.engine.with_memory_plan(clip), attempt)
        return made, attempt.warnings


@pytest.fixture
def card(tiny_svd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Card:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # where choices are kept
    monkeypatch.setattr("worker.engines.svd.probes.choose_ways", lambda *_: {"convolution": "conv2d"})
    return Card(tiny_svd, monkeypatch)


@pytest.mark.parametrize("phase", PHASES)
def test_where_memory_runs_out_the_next_plan_is_taken_and_remembered(card: Card, phase: str) -> None:
    card.hold()
    card.runs_out(phase, *NEXT[phase][:-1])
    made, warnings = card.render()
    assert card.tried == NEXT[phase]
    assert made.memory_plan == "8 GB"
    assert len(warnings) == len(card.tried) - 1
    assert warnings[0].startswith("the GPU's memory ran out with the memory plan 24 GB and decode_chunk_size 13; ")
    card.tried.clear()
    made, warnings = card.render(seed=5)
    assert (card.tried, warnings) == (["8 GB"], [])


@pytest.mark.parametrize("name", NO_MEMORY)
def test_under_each_of_its_names_it_leads_to_the_next_plan(card: Card, name: str) -> None:
    card.hold()
    card.monkeypatch.setattr(gpu_faults, "little_is_free", lambda: True)
    card.runs_out("denoise", "24 GB", "16 GB", error=NO_MEMORY[name])
    made, _ = card.render()
    assert (card.tried, made.memory_plan) == (["24 GB", "12 GB"], "12 GB")


def test_where_every_plan_runs_out_the_clip_fails_and_a_smaller_one_is_made(card: Card) -> None:
    card.hold()
    card.runs_out("denoise", *memory.PLANS)
    with pytest.raises(OutOfMemory, match="a smaller size or fewer num_frames would need less"):
        card.render()
    assert card.tried == NEXT["denoise"]
    card.tried.clear()
    with pytest.raises(OutOfMemory, match="which ran out before; num_frames 24 would fit"):
        card.render()
    assert card.tried == []
    card.runs_out("denoise")  # not for this one
    made, _ = card.render(num_frames=24)
    assert made.num_frames == 24


def test_a_chunk_that_was_asked_for_is_halved_where_no_plan_decodes_it(card: Card) -> None:
    card.hold()
    decode = frames.decode

    def tight(pipeline: Any, latents: Any, clip: Clip, attempt: Attempt) -> Any:
        if (clip.decode_chunk_size or 0) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return decode(pipeline, latents, clip, attempt)

    card.monkeypatch.setattr(frames, "decode", tight)
    made, warnings = card.render(decode_chunk_size=12)
    assert (made.decode_chunk_size, made.memory_plan) == (3, "24 GB")
    assert card.tried == ["24 GB", "8 GB", "24 GB", "8 GB", "24 GB"]  # with 12, with 6, and with 3
    assert warnings[-1].endswith("this was made with the memory plan 24 GB and decode_chunk_size 3")


@pytest.mark.usefixtures("lost")
@pytest.mark.parametrize("name", STICKY)
def test_a_sticky_fault_loses_the_gpu(card: Card, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    card.hold()
    card.runs_out("denoise", "24 GB", error=STICKY[name])
    with pytest.raises(GpuLost, match="the GPU failed in the phase denoise"):
        card.render()


def test_a_computation_that_fails_alone_is_no_lost_gpu(card: Card) -> None:
    card.hold()
    card.runs_out("denoise", "24 GB", error=STICKY["cuBLAS"])
    with pytest.raises(EngineFailed, match="torch failed in the phase denoise: CUDA error: CUBLAS_STATUS_EXEC"):
        card.render()


# As it is loaded


@pytest.mark.parametrize("phase", PHASES)
def test_what_runs_out_in_the_try_out_is_tried_by_the_next_plan(card: Card, phase: str) -> None:
    card.runs_out(phase, *NEXT[phase][:-1])
    card.hold()
    assert card.engine.plan == "8 GB"
    made, warnings = card.render()
    assert (made.memory_plan, card.tried, warnings) == ("8 GB", ["8 GB"], [])


def test_the_default_clip_is_tried_at_its_size_where_nothing_is_compiled(card: Card) -> None:
    sizes: list[tuple[int, int, int]] = []
    make = frames.make_frames

    def noted(pipeline: Any, picture: Any, clip: Clip, *given: Any) -> Any:
        sizes.append((clip.width, clip.num_frames, clip.num_inference_steps or 0))
        return make(pipeline, picture, clip, *given)

    card.monkeypatch.setattr(frames, "make_frames", noted)
    card.hold()
    assert sizes == [(64, 2, 1), (64, 25, 1)]


def test_free_memory_is_asked_again_once_kernels_are_loaded(card: Card) -> None:
    engine, free = card.engine, iter([10**12, 5 * 10**9])
    card.monkeypatch.setattr(memory, "total_bytes", lambda: next(free))
    card.hold()
    assert engine.gpu_memory.total == 5 * 10**9


def test_health_says_what_was_chosen_and_how_much_memory_there_is(card: Card) -> None:
    card.monkeypatch.setattr(memory, "total_bytes", lambda: 20 * memory.GB)
    card.hold()
    assert card.engine.memory() == {
        "memory_plan": "24 GB",
        "gpu_free_gb": 20.0,
        "compiled": False,
        "kernels": {"convolution": "conv2d"},
    }


def compiled_without_compiler(card: Card) -> list[str]:
    """Let models be 'compiled' into what they are, and note each time."""
    done: list[str] = []

    def as_it_is(model: Any, **_: Any) -> None:
        done.append(type(model).__name__)
        model._compiled_call_impl = model._call_impl

    card.monkeypatch.setattr(torch.nn.Module, "compile", as_it_is)
    return done


@pytest.mark.parametrize("compiling", [True, False])
def test_kernels_are_chosen_for_the_clip_as_it_then_runs(card: Card, compiling: bool) -> None:
    compiled_without_compiler(card)
    card.hold()
    engine, asked = card.engine, []
    usual = engine._usual_clip()
    eager = needed(engine.with_memory_plan(usual), engine.weights)
    engine.gpu_memory.total = None
    card.monkeypatch.setattr(memory, "total_bytes", lambda: eager - 1)  # for "24 GB" only once it is compiled
    card.monkeypatch.setattr("worker.engines.svd.probes.choose_ways", lambda _, clip, *__: asked.append(clip) or {})
    card.hold(speedups.ON_GPU + speedups.COMPILED if compiling else speedups.ON_GPU)
    (clip,) = asked
    assert clip.memory_plan == engine.plan == ("24 GB" if compiling else "16 GB")


def test_a_compiled_try_out_that_runs_out_goes_down_a_plan_and_stays_compiled(card: Card) -> None:
    compiled_without_compiler(card)
    card.runs_out("decode", "24 GB")
    card.hold(speedups.ON_GPU + speedups.COMPILED)
    assert card.engine.compiled
    assert (card.engine.compiled.clip.memory_plan, card.engine.plan) == ("16 GB", "16 GB")


def test_where_no_whole_plan_can_be_tried_nothing_stays_compiled(card: Card) -> None:
    done = compiled_without_compiler(card)
    card.runs_out("denoise", "24 GB", "16 GB")
    card.hold(speedups.ON_GPU + speedups.COMPILED)
    assert done
    assert (card.engine.compiled, card.engine.plan) == (None, "12 GB")
    assert card.engine.pipeline.unet._compiled_call_impl is None


def test_a_default_clip_that_runs_out_by_every_plan_takes_no_work(card: Card) -> None:
    card.runs_out("denoise", *memory.PLANS)
    with pytest.raises(EngineUnavailable, match="free some of the GPU's memory, or ask for less by VIDEO_WIDTH"):
        card.hold()
    card.runs_out("denoise")  # nor at the next try: whoever had the memory is gone
    card.hold()
    assert card.engine.plan == "24 GB"


def test_engines_that_stand_idle_leave_before_another_plan_is_taken(card: Card) -> None:
    card.hold()
    idle = Idle()
    card.engine.gpu_memory.enter("svd", idle)
    card.runs_out("denoise", "24 GB")

    def leaves() -> None:
        card.runs_out("denoise")
        idle.left = True

    idle.unload = leaves  # type: ignore[method-assign] # then there is enough
    made, warnings = card.render()
    assert idle.left
    assert made.memory_plan == "24 GB"
    (warning,) = warnings
    assert warning.endswith("; this was made so all the same, once engines that stood idle had left")


class Idle(Svd):
    """Another engine on the same card."""

    def __init__(self, held: int = 0) -> None:
        settings = Settings(_env_file=None)
        super().__init__(find_engine("svd", settings), settings)
        self.device, self.held, self.left = "cuda", held, False

    @property
    def resident_bytes(self) -> int:
        return 0 if self.left else self.held

    def unload(self) -> None:
        self.left = True


def test_an_idle_engine_stays_while_it_costs_no_plan_and_the_least_recently_used_leaves(card: Card) -> None:
    card.hold()
    engine, room = card.engine, card.engine.gpu_memory
    whole = needed(engine.with_memory_plan(engine._usual_clip()), engine.weights)
    older, newer = Idle(held=1000), Idle(held=1000)
    room.enter("svd", newer)
    room.enter("turbo", older)
    room.enter("svd", newer)  # used again
    room.total = whole + 2000
    assert card.render()[0].memory_plan == "24 GB"
    assert (older.left, newer.left) == (False, False)
    room.total = whole + 1000
    assert card.render()[0].memory_plan == "24 GB"
    assert (older.left, newer.left) == (True, False)
    assert list(room.tenants) == ["svd"]
    next_best = engine.with_memory_plan(engine._usual_clip().model_copy(update={"decode_chunk_size": 7}))
    room.total = needed(next_best, engine.weights) + 999
    assert card.render()[0].memory_plan == "16 GB"
    assert newer.left


def test_an_engine_that_loads_makes_no_more_room_than_it_needs_once_it_is_compiled(card: Card) -> None:
    compiled_without_compiler(card)
    other = Idle(held=10**6)
    card.hold(speedups.ON_GPU + speedups.COMPILED)
    compiled = card.engine.compiled
    assert compiled
    eager = needed(compiled.clip, card.engine.weights)
    assert needed(compiled.clip, card.engine.weights, compiled) < eager - 1
    card.engine.compiled = None
    card.engine.gpu_memory.enter("svd", other)
    card.monkeypatch.setattr(memory, "total_bytes", lambda: eager - 1 + other.held)
    card.hold(speedups.ON_GPU + speedups.COMPILED)
    assert not other.left
    assert card.engine.plan == "24 GB"


def test_what_ran_out_is_remembered_when_the_engine_is_loaded_anew(card: Card, tiny_svd: Path) -> None:
    card.hold()
    card.runs_out("denoise", "24 GB", "16 GB")
    card.render()
    again = Svd(card.engine.engine, card.engine.settings, card.engine.gpu_memory)
    again.hold(fetch(str(tiny_svd), None, torch.float32), speedups.ON_GPU, "cuda")
    assert again.plan == "12 GB"
    card.failing.clear()
    other = Svd(find_engine("svd", card.engine.settings), card.engine.settings, card.engine.gpu_memory)
    other.hold(fetch(str(tiny_svd), None, torch.float32), speedups.ON_GPU, "cuda")
    assert other.plan == "24 GB"  # each has its own
