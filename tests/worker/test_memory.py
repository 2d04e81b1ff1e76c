"""Memory plans: that each needs what it says, makes the same clip, and is taken where it fits."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from core.config.settings import Settings
from core.engines.known import find_engine
from core.errors import EngineUnavailable, OutOfMemory
from core.requests.clip import Clip, ClipRequest
from core.requests.resolve import resolve
from core.status import Status
from tests.worker.conftest import SVD_MARKS
from tests.worker.test_runner import run
from worker.attempt import Attempt
from worker.engines.host import EngineHost
from worker.engines.svd.svd import Svd
from worker.run.runner import WorkerContext

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from bench.peak import build, count
from tests.worker.test_svd import create_svd, tiny_clip
from tests.worker.test_svd_speedups import AGREES, Seen, hold
from worker.engines.svd import feed_forward, memory, placing
from worker.engines.svd.memory import GB, PLANS, fitting, needed, with_memory_plan, work_of
from worker.engines.svd.weights import fetch

pytestmark = SVD_MARKS

CARDS = {"24 GB": 23.5, "16 GB": 15.5, "12 GB": 11.5, "8 GB": 7.5}
"""What is free on each, less than its name says."""


def native(**changes: Any) -> Clip:
    settings = Settings(_env_file=None)
    clip, _ = resolve(ClipRequest(seed=0), find_engine("svd-xt", settings), settings)
    return clip.model_copy(update=changes)


@pytest.fixture(scope="module")
def full() -> Any:
    return build()


@pytest.fixture(scope="module")
def weights(full: Any) -> dict[str, int]:
    return placing.weights_of(full)


@pytest.mark.parametrize(
    ("plan", "changes"),
    [
        ("24 GB", {}),
        ("24 GB", {"width": 576, "height": 320, "num_frames": 14, "max_guidance_scale": 1.0}),
        ("12 GB", {"num_frames": 14}),
        ("8 GB", {}),
        ("8 GB", {"width": 768, "height": 448, "max_guidance_scale": 1.0, "decode_chunk_size": 2}),
    ],
)
def test_a_plan_needs_what_the_models_hold_at_full_size(full: Any, plan: str, changes: dict[str, Any]) -> None:
    clip = with_memory_plan(native(**changes), plan)
    said = work_of(clip)
    for phase, found in count(full, clip).items():
        assert found <= said[phase] <= 1.05 * found, phase


@pytest.mark.parametrize("plan", PLANS)
def test_the_native_clip_fits_the_card_that_a_plan_is_named_after(plan: str, weights: dict[str, int]) -> None:
    settled = fitting(native(), int(CARDS[plan] * GB), weights)
    assert settled.memory_plan == plan
    assert settled.decode_chunk_size == PLANS[plan].decode_chunk_size
    assert needed(settled, weights) < CARDS[plan] * GB


@pytest.mark.parametrize(("gb", "plan"), [(23.0, "24 GB"), (15.0, "24 GB"), (11.0, "16 GB"), (10.0, None), (7.0, None)])
def test_compiled_programs_need_less_so_that_a_card_of_12_gb_has_them(
    gb: float, plan: str | None, weights: dict[str, int]
) -> None:
    """What is free there once kernels are loaded."""
    settled = memory.fitting_compiled(native(), int(gb * GB), weights)
    assert (settled and settled.memory_plan) == plan
    if settled:
        again = fitting(native(seed=5, profile="fast"), int(gb * GB), weights, memory.Compiled(settled))
        assert (again.memory_plan, again.decode_chunk_size) == (plan, settled.decode_chunk_size)


@pytest.mark.parametrize(
    ("changes", "unet", "decoder"),
    [
        ({}, True, True),
        ({"max_guidance_scale": 1.0}, False, True),
        ({"num_frames": 14, "decode_chunk_size": 13}, False, False),
        ({"decode_chunk_size": 5}, True, False),
        ({"width": 576, "height": 1024}, False, False),
        ({"memory_plan": "12 GB"}, False, True),
    ],
)
def test_only_what_looks_like_the_clip_it_was_compiled_for_runs_compiled(
    changes: dict[str, Any], unet: bool, decoder: bool
) -> None:
    compiled = memory.Compiled(with_memory_plan(native(), "24 GB"))
    clip = with_memory_plan(native(), "24 GB").model_copy(update=changes)
    assert (compiled.has_unet(clip), compiled.has_decoder(clip)) == (unet, decoder)
    eager, less = work_of(clip), work_of(clip, compiled)
    assert (less["denoise"] < eager["denoise"], less["decode"] < eager["decode"]) == (unet, decoder)


def test_a_small_clip_is_made_whole_on_a_small_card(weights: dict[str, int]) -> None:
    small = fitting(native(width=320, height=192, num_frames=14), int(CARDS["8 GB"] * GB), weights)
    assert small.memory_plan == "24 GB"


def test_a_chunk_that_is_asked_for_is_kept(weights: dict[str, int]) -> None:
    settled = fitting(native(decode_chunk_size=2), int(CARDS["24 GB"] * GB), weights)
    assert (settled.memory_plan, settled.decode_chunk_size) == ("24 GB", 2)


@pytest.mark.parametrize(
    ("plan", "changes", "chunk"),
    [
        ("24 GB", {"num_frames": 14}, 7),
        ("8 GB", {"num_frames": 14}, 5),
        ("8 GB", {"num_frames": 6}, 3),
        ("8 GB", {"width": 1024, "height": 1024}, 2),
        ("8 GB", {"width": 64, "height": 64}, 5),
        ("24 GB", {"num_frames": 2}, 2),
    ],
)
def test_chunks_are_even_and_smaller_for_larger_frames(plan: str, changes: dict[str, Any], chunk: int) -> None:
    assert with_memory_plan(native(**changes), plan).decode_chunk_size == chunk


@pytest.mark.parametrize(
    ("gb", "changes", "message"),
    [
        (
            7.5,
            {"decode_chunk_size": 25},
            "25 frames of 1024×576, 25 decoded at once, need 31.3 GB of the GPU's memory, and 7.5 are free for it; "
            "decode_chunk_size 5 would fit",
        ),
        (
            6.45,
            {"width": 1024, "height": 1024},
            "25 frames of 1024×1024 need 7.4 GB of the GPU's memory, and 6.4 are free for it; num_frames 20 would fit",
        ),
        (
            3.5,
            {},
            "25 frames of 1024×576 need 6.4 GB of the GPU's memory, and 3.5 are free for it; num_frames 2 would fit",
        ),
        (
            2.0,
            {"num_frames": 2},
            "2 frames of 1024×576 need 3.0 GB of the GPU's memory, and 2.0 are free for it; "
            "a smaller size would need less",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_what_would(
    gb: float, changes: dict[str, Any], message: str, weights: dict[str, int]
) -> None:
    clip, budget = native(**changes), int(gb * GB)
    with pytest.raises(OutOfMemory) as caught:
        fitting(clip, budget, weights)
    assert caught.value.message == message
    *_, name, value, _, _ = message.split()
    if name in Clip.model_fields:
        fitting(clip.model_copy(update={name: int(value)}), budget, weights)
        with pytest.raises(OutOfMemory):
            fitting(clip.model_copy(update={name: int(value) + 1}), budget, weights)


@pytest.fixture(scope="module")
def engine(tiny_svd: Path) -> Svd:
    return hold(tiny_svd)


@pytest.fixture
def _few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_forward, "ROWS", 50)


CLIPS: dict[str, dict[str, Any]] = {
    "guided": {},
    "unguided": {"max_guidance_scale": 1.0},
    "fast": {"profile": "fast", "num_inference_steps": 7},
    "fast, unguided": {"profile": "fast", "num_inference_steps": 4, "max_guidance_scale": 1.0},
}


@pytest.mark.usefixtures("_few_rows")
@pytest.mark.parametrize("name", CLIPS)
def test_every_plan_makes_the_same_clip(
    engine: Svd, photo: Image.Image, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    seen = Seen(engine, monkeypatch)
    expected = seen.render(photo, memory_plan="24 GB", **CLIPS[name]).astype(int)
    pixels = seen.pixels
    for plan in PLANS:
        frames = seen.render(photo, memory_plan=plan, **CLIPS[name])
        assert np.abs(seen.pixels - pixels).max() < AGREES, plan
        assert np.abs(frames - expected).max() <= 1, plan
    seen.render(photo, memory_plan="24 GB", **CLIPS[name])
    assert np.array_equal(seen.pixels, pixels)  # nothing is left of the others


@pytest.mark.usefixtures("_few_rows")
def test_the_smallest_plan_shows_the_unet_one_sample_and_its_feed_forwards_a_few_rows(
    engine: Svd, photo: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples: list[int] = []
    rows: list[int] = []
    unet = engine.pipeline.unet
    hooks = [unet.register_forward_pre_hook(lambda _, given: samples.append(len(given[0])))]
    for module in unet.modules():
        if isinstance(module, feed_forward.PartedFeedForward):
            hooks.append(module.whole.register_forward_pre_hook(lambda _, given: rows.append(len(given[0]))))
    Seen(engine, monkeypatch).render(photo, memory_plan="8 GB")
    for hook in hooks:
        hook.remove()
    assert samples == [1, 1, 1, 1]  # of two steps
    assert max(rows) == 50


class Model(torch.nn.Linear):  # type: ignore[misc]  # torch has no types here
    """Goes to and fro between the CPU and the only other device that torch has everywhere."""

    def __init__(self, moves: list[str]) -> None:
        super().__init__(1, 1)
        self.moves = moves

    def to(self, device: str, non_blocking: bool) -> None:
        assert non_blocking
        self.moves.append(device)
        for name in ("weight", "bias"):
            setattr(self, name, torch.nn.Parameter(torch.empty(1, device=device)))


@pytest.fixture
def moves() -> list[str]:
    return []


@pytest.fixture
def models(moves: list[str]) -> Any:
    vae = SimpleNamespace(encoder=Model(moves), quant_conv=Model(moves), decoder=Model(moves))
    return SimpleNamespace(image_encoder=Model(moves), unet=Model(moves), vae=vae)


def placed(models: Any) -> list[str]:
    """The phases whose models are on the device."""
    there = {phase: placing.models_of(models, phase) for phase in placing.MODELS}
    return [phase for phase, each in there.items() if all(model.weight.device.type == "meta" for model in each)]


def test_a_phase_that_is_alone_finds_its_models_and_no_others_on_the_device(models: Any, moves: list[str]) -> None:
    for phase in [*placing.MODELS, "encode_image"]:
        moves.clear()
        placing.place(models, phase, "meta", alone=True)
        assert placed(models) == [phase]
        assert moves == sorted(moves)  # away to the CPU first: both would be too much


def test_else_all_models_are_there_and_stay(models: Any, moves: list[str]) -> None:
    for phase in placing.MODELS:
        placing.place(models, phase, "meta", alone=False)
        assert placed(models) == list(placing.MODELS)
    assert len(moves) == 5


def test_a_model_that_was_moved_halfway_is_moved_again(models: Any) -> None:
    placing.place(models, "denoise", "meta", alone=True)
    models.unet.bias = torch.nn.Parameter(torch.empty(1))
    placing.place(models, "denoise", "meta", alone=True)
    assert models.unet.bias.device.type == "meta"


def test_what_leaves_the_gpu_is_dropped_for_it_lies_in_the_machines_memory_still(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(placing, "pinned", lambda weights: weights)
    monkeypatch.setattr(placing, "is_tight", lambda: False)
    moves: list[str] = []

    class Model(torch.nn.Linear):  # type: ignore[misc]  # torch has no types here
        def to(self, device: str, non_blocking: bool) -> None:
            moves.append(device)
            for weights in self.parameters():
                weights.data = weights.data.clone()  # as a GPU's copy

    monkeypatch.setattr(placing, "move", lambda model, device: model.to(device, True) if device == "cuda" else None)
    vae = SimpleNamespace(encoder=Model(2, 2), quant_conv=Model(2, 2), decoder=Model(2, 2))
    models = SimpleNamespace(image_encoder=Model(2, 2), unet=Model(2, 2), vae=vae)
    mine = models.unet.weight.data_ptr()
    for _ in range(2):
        placing.place(models, "denoise", "cuda", alone=True)
        assert models.unet.weight.data_ptr() != mine
        placing.place(models, "decode", "cuda", alone=True)
        assert models.unet.weight.data_ptr() == mine
    assert moves == ["cuda"] * 4


@pytest.mark.parametrize(("free", "emptied"), [(20, 0), (5, 1)])
def test_idle_memory_is_given_back_before_a_phase_where_little_is_free(
    models: Any, monkeypatch: pytest.MonkeyPatch, free: int, emptied: int
) -> None:
    times: list[int] = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free, 24))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: times.append(1))
    monkeypatch.setattr(placing, "move", lambda *_: None)
    placing.place(models, "decode", "cuda", alone=False)
    assert len(times) == emptied


def test_memory_that_cannot_be_pinned_serves_as_it_is() -> None:
    weights = torch.zeros(3)
    assert placing.pinned(weights).data_ptr() == weights.data_ptr()  # there is no GPU for which it could be


def test_each_phase_is_given_its_models_by_the_clips_plan(
    engine: Svd, photo: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, bool]] = []
    monkeypatch.setattr("worker.engines.svd.frames.place", lambda _, phase, __, alone: told.append((phase, alone)))
    for plan in ("12 GB", "8 GB"):
        Seen(engine, monkeypatch).render(photo, memory_plan=plan)
    assert told == [(phase, alone) for alone in (False, True) for phase in placing.MODELS]


@pytest.fixture
def on_card(tiny_svd: Path) -> Callable[[float], Svd]:
    """An engine with as much memory as the numbers say; it renders on the CPU."""

    def make(gb: float) -> Svd:
        engine = create_svd(tiny_svd)
        engine.load()
        engine.gpu_memory.total = int(gb * GB)
        engine.plan = engine.with_memory_plan(engine._usual_clip()).memory_plan
        return engine

    return make


def test_a_clip_that_cannot_fit_is_refused_before_anything_begins(
    on_card: Callable[[float], Svd], photo: Image.Image
) -> None:
    engine, attempt = on_card(7), Attempt()
    with pytest.raises(OutOfMemory, match="decode_chunk_size 5 would fit"):
        engine.render(photo, native(decode_chunk_size=25), attempt)
    assert attempt.seconds == {}
    assert engine.render(photo, tiny_clip(), Attempt()).shape == (4, 32, 32, 3)


def test_health_says_which_plan_and_how_much_memory(on_card: Callable[[float], Svd], settings: Settings) -> None:
    engine_host = EngineHost(settings, "gpu")
    engine_host.loaded["svd-xt"] = on_card(7.04)
    report = engine_host.report()
    assert report["svd-xt"].items() >= {"loaded": True, "memory_plan": "12 GB", "gpu_free_gb": 7.0}.items()
    assert "memory_plan" not in report["svd"]


def test_on_a_cpu_there_is_nothing_to_say_and_nothing_is_refused(engine: Svd) -> None:
    assert engine.memory() == {}
    settled = engine.with_memory_plan(native(decode_chunk_size=25))
    assert (settled.memory_plan, settled.decode_chunk_size) == ("16 GB", 25)
    assert engine.with_memory_plan(settled) == settled


def test_an_engine_whose_default_clip_cannot_fit_takes_no_work(tiny_svd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "total_bytes", lambda: 2 * GB)
    with pytest.raises(EngineUnavailable) as caught:
        create_svd(tiny_svd).hold(fetch(str(tiny_svd), None, torch.float32), device="cuda")
    assert caught.value.message == (
        "free some of the GPU's memory, or ask for less by VIDEO_WIDTH, VIDEO_HEIGHT or VIDEO_FRAMES: "
        "25 frames of 1024×576 need 6.3 GB of the GPU's memory, and 2.0 are free for it; a smaller size would need less"
    )


def test_of_a_long_default_clip_only_a_part_must_fit(tiny_svd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(_env_file=None, model_id=str(tiny_svd), video_width=64, video_height=64, video_frames=60)
    engine = Svd(replace(find_engine("svd-xt", settings), frames_at_once=2), settings)
    tried: list[int] = []
    monkeypatch.setattr("worker.engines.svd.svd.Svd.render", lambda _, __, clip, ___: tried.append(clip.num_frames))
    monkeypatch.setattr("worker.engines.svd.svd.SMALL", {})  # tries the default clip itself
    engine.hold(fetch(str(tiny_svd), None, torch.float32))
    assert tried == [2]


@pytest.mark.parametrize(("fraction", "total"), [(1.0, 15 + 3), (0.5, 12)])
def test_torch_may_hold_what_is_free_and_what_it_holds_already_up_to_its_share(
    monkeypatch: pytest.MonkeyPatch, fraction: float, total: int
) -> None:
    answers = {"mem_get_info": (15, 24), "get_per_process_memory_fraction": fraction, "memory_reserved": 3}
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, lambda answer=answer: answer)
    assert memory.total_bytes() == total


def test_on_a_cpu_whose_plan_is_in_parts_nothing_is_compiled(tiny_svd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from worker.engines.svd import speedups

    monkeypatch.setattr(memory, "ON_CPU", "12 GB")
    monkeypatch.setattr(torch.nn.Module, "compile", lambda *_, **__: pytest.fail("compiled"))
    assert not hold(tiny_svd, speedups.ON_GPU + speedups.COMPILED).compiled


def test_a_clip_is_settled_before_it_is_rendered_and_the_receipt_says_how(
    context: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = {"memory_plan": "8 GB", "decode_chunk_size": 5}
    monkeypatch.setattr("worker.engines.camera.Camera.with_memory_plan", lambda _, clip: clip.model_copy(update=how))
    receipt = run(context).receipt
    assert receipt is not None
    assert receipt["memory_plan"] == "8 GB"
    assert receipt["parameters"]["decode_chunk_size"] == 5
    assert "memory_plan" not in receipt["parameters"]


def test_a_clip_that_is_refused_is_not_tried_with_half_the_chunk(
    context: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OutOfMemory("decode_chunk_size 5 would fit")

    monkeypatch.setattr("worker.engines.camera.Camera.with_memory_plan", refuse)
    monkeypatch.setattr("worker.engines.camera.Camera.render", lambda *_: pytest.fail("rendered"))
    task = run(context, decode_chunk_size=25)
    assert task.error is not None
    assert (task.status, task.error.code) == (Status.FAILED, "gpu_out_of_memory")
    assert task.error.message == "decode_chunk_size 5 would fit"
