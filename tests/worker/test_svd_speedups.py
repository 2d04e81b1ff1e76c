"""Each change to diffusers' models and its loop: the same pictures, and really there."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from core.config.settings import Settings
from core.engines.base import Range
from core.engines.known import find_engine
from core.errors import GpuLost
from core.requests.clip import Clip
from tests.worker.conftest import SVD_MARKS
from worker.attempt import Attempt
from worker.engines.svd import (
    compiling,
    conditioning,
    cross_attention,
    decoding,
    denoising,
    device_progress,
    group_norm,
    speedups,
    temporal_convolution,
)
from worker.engines.svd.svd import Svd
from worker.engines.svd.weights import fetch
from worker.media.fit import fit_picture

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from diffusers.models.attention_processor import Attention
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from harness.tiny_svd import load_stock

pytestmark = SVD_MARKS

ROOT = Path(__file__).parents[2]
AGREES = 1e-4
"""Pixels from 0 to 1, in float32. What is changed rounds otherwise, in latents that begin at 700 times their size."""

CLIPS = {
    "guided": {},
    "unguided": {"max_guidance_scale": 1.0},
    "wide": {"width": 64, "height": 32, "num_frames": 2, "decode_chunk_size": 2},
    "tall, two at once": {"width": 32, "height": 64, "num_frames": 3, "decode_chunk_size": 2},
    "many frames, at once": {"num_frames": 9, "decode_chunk_size": 9, "seed": 3},
    "guided from the first frame": {"min_guidance_scale": 2.0, "max_guidance_scale": 5.0, "fps": 20},
    "noisy": {"noise_aug_strength": 1.0, "motion_bucket_id": 255, "seed": 2**32 - 1},
}
CHANGES: dict[str, tuple[speedups.SpeedUp, ...]] = {
    "the loop alone": (),
    "folded cross-attention": (cross_attention.fold_cross_attention,),
    "conv2d": (temporal_convolution.use_conv2d,),
    "channels last": (compiling.use_channels_last,),
    "norms that keep channels last": (group_norm.use_channels_last_norms,),
    "all that is not compiled": speedups.ON_GPU,
}
DEFAULTS = {"width": 32, "height": 32, "num_frames": 4, "num_inference_steps": 2, "decode_chunk_size": 3}


def create_engine(model: Path) -> Svd:
    """Whose default clip is small."""
    settings = Settings(_env_file=None, model_id=str(model))
    engine = find_engine("svd-xt", settings)
    sides = {"width": Range(32, 128, 32), "height": Range(32, 128, 32)}
    return Svd(replace(engine, limits=engine.limits | sides, defaults=engine.defaults | DEFAULTS), settings)


def hold(model: Path, speed_ups: tuple[speedups.SpeedUp, ...] | None = None, dtype: Any = torch.float32) -> Svd:
    engine = create_engine(model)
    engine.hold(fetch(str(model), None, dtype), speed_ups)
    return engine


def clip_of(engine: Svd, **changes: Any) -> Clip:
    return Clip(engine="svd-xt", **engine.engine.defaults | {"seed": 7} | changes)


@pytest.fixture(scope="module")
def stock(tiny_svd: Path) -> Any:
    return load_stock(tiny_svd)


NAMED = {"width", "height", "num_frames", "num_inference_steps", "min_guidance_scale", "max_guidance_scale", "fps"}
NAMED |= {"motion_bucket_id", "noise_aug_strength", "decode_chunk_size"}


def of_diffusers(pipeline: Any, photo: Image.Image, clip: Clip) -> np.ndarray:
    picture = fit_picture(photo, clip.width, clip.height, clip.fit)
    seed = torch.Generator("cpu").manual_seed(clip.seed)
    frames: np.ndarray = pipeline(picture, generator=seed, output_type="np", **clip.model_dump(include=NAMED)).frames[0]
    return frames


@pytest.fixture(scope="module")
def expected(stock: Any, photo: Image.Image, tiny_svd: Path) -> Callable[[str], np.ndarray]:
    """What diffusers makes of one of CLIPS, made once: pixels from 0 to 1."""
    made: dict[str, np.ndarray] = {}

    def make(name: str) -> np.ndarray:
        if name not in made:
            made[name] = of_diffusers(stock, photo, clip_of(create_engine(tiny_svd), **CLIPS[name]))
        return made[name]

    return make


class Seen:
    """Renders, and keeps the pixels, from 0 to 1, as they were before they were rounded to bytes."""

    def __init__(self, engine: Svd, monkeypatch: pytest.MonkeyPatch) -> None:
        self.engine, self.pixels = engine, np.empty(0)
        self._chunks: list[Any] = []
        to_bytes = decoding.to_bytes

        def keep(video: Any) -> Any:
            self._chunks.append(video)
            return to_bytes(video)

        monkeypatch.setattr(decoding, "to_bytes", keep)

    def render(self, photo: Image.Image, **changes: Any) -> np.ndarray:
        self._chunks.clear()
        frames = self.engine.render(photo, clip_of(self.engine, **changes), Attempt())
        video = torch.cat(self._chunks).permute(0, 2, 3, 1).numpy()
        self.pixels = (video * 0.5 + 0.5).clip(0, 1)
        return frames


@pytest.mark.parametrize("speed_ups", CHANGES.values(), ids=CHANGES.keys())
def test_each_change_agrees_with_diffusers_clip_after_clip(
    tiny_svd: Path,
    photo: Image.Image,
    expected: Callable[[str], np.ndarray],
    speed_ups: tuple[speedups.SpeedUp, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = Seen(hold(tiny_svd, speed_ups), monkeypatch)
    for name in [*CLIPS, "guided"]:
        frames, pixels = seen.render(photo, **CLIPS[name]), expected(name)
        assert np.abs(seen.pixels - pixels).max() < AGREES, name
        assert np.abs(frames - 255 * pixels).max() < 0.5 + 255 * AGREES, name
        if not speed_ups:
            assert np.array_equal(seen.pixels, pixels), name


def test_an_engine_is_held_with_the_changes_that_are_worth_it_where_it_is(
    tiny_svd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert count(hold(tiny_svd).pipeline.unet, cross_attention.FoldedCrossAttention) > 0
    assert speedups.worth_it("cpu") == speedups.EVERYWHERE
    assert speedups.worth_it("cuda") == speedups.ON_GPU + speedups.COMPILED
    monkeypatch.setattr(speedups, "may_compile", lambda: False)
    assert speedups.worth_it("cuda") == speedups.ON_GPU


def test_no_attention_to_the_picture_is_left(tiny_svd: Path, stock: Any) -> None:
    was = [m for m in stock.unet.modules() if isinstance(m, Attention) and m.is_cross_attention]
    unet = hold(tiny_svd, (cross_attention.fold_cross_attention,)).pipeline.unet
    folded = [m for m in unet.modules() if isinstance(m, cross_attention.FoldedCrossAttention)]
    assert len(was) == len(folded) > 0
    assert not [m for m in unet.modules() if isinstance(m, Attention) and m.is_cross_attention]
    assert count(unet, torch.nn.LayerNorm) == count(stock.unet, torch.nn.LayerNorm) - len(folded)


def test_what_is_folded_is_worked_out_once_a_clip(
    tiny_svd: Path, photo: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = hold(tiny_svd, (cross_attention.fold_cross_attention,))
    folded = [m for m in engine.pipeline.unet.modules() if isinstance(m, cross_attention.FoldedCrossAttention)]
    calls: list[object] = []
    for module in folded:
        module.to_v.register_forward_hook(lambda *_: calls.append(1))
    engine.render(photo, clip_of(engine, num_inference_steps=5), Attempt())
    assert len(calls) == len(folded)


def count(model: Any, kind: type) -> int:
    return sum(isinstance(module, kind) for module in model.modules())


def test_no_convolution_along_frames_is_left_in_three_dimensions(tiny_svd: Path, stock: Any) -> None:
    pipeline = hold(tiny_svd, (temporal_convolution.use_conv2d,)).pipeline
    for mine, theirs in ((pipeline.unet, stock.unet), (pipeline.vae.decoder, stock.vae.decoder)):
        assert count(mine, torch.nn.Conv3d) == 0
        assert count(mine, temporal_convolution.TemporalConvolution) == count(theirs, torch.nn.Conv3d) > 0


def test_every_kernel_has_its_channels_last(tiny_svd: Path) -> None:
    pipeline = hold(tiny_svd, CHANGES["all that is not compiled"]).pipeline
    for model in (pipeline.unet, pipeline.vae.decoder):
        kernels = [weights for weights in model.parameters() if weights.ndim == 4]
        assert kernels
        assert all(weights.is_contiguous(memory_format=torch.channels_last) for weights in kernels)


def test_a_norm_of_either_layout_and_of_frames_is_torchs_own_once_it_is_compiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    norm = torch.nn.GroupNorm(4, 8, eps=0.1)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    ours = group_norm.ChannelsLastGroupNorm(norm)
    pixels = torch.randn(2, 8, 5, 6) * 3 + 1
    for given in (pixels, pixels.to(memory_format=torch.channels_last), torch.randn(2, 8, 3, 5, 6), pixels.flatten(2)):
        expected = norm(given)
        assert torch.equal(ours(given), expected)
        with monkeypatch.context() as patch:
            patch.setattr(torch.compiler, "is_compiling", lambda: True)
            assert (ours(given) - expected).abs().max() < 1e-5
    with monkeypatch.context() as patch:
        patch.setattr(torch.compiler, "is_compiling", lambda: True)
        last = ours(pixels.to(memory_format=torch.channels_last))
        assert last.is_contiguous(memory_format=torch.channels_last)
        assert ours(pixels.half()).dtype == torch.float16


class Waits(TorchDispatchMode):
    """Counts how often Python asks for a value that a GPU would have to work out first. What the scheduler keeps on
    the CPU, and what comes of nothing else, may be asked for freely."""

    ASKING = ("aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero", "aten::equal", "aten::item")

    def __init__(self, scheduler: Any) -> None:
        super().__init__()
        self.count, self.on_host = 0, []
        set_timesteps = scheduler.set_timesteps

        def and_keep(*given: Any, **named: Any) -> None:
            set_timesteps(*given, **named)
            self.on_host = [scheduler.sigmas, scheduler.timesteps]

        scheduler.set_timesteps = and_keep

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        result = func(*args, **kwargs or {})
        on_host = bool(given) and all(any(tensor is known for known in self.on_host) for tensor in given)
        if on_host:
            self.on_host += [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        elif self.on_host and func.name() in self.ASKING:
            self.count += 1
        return result


def test_the_loop_never_waits_for_the_device_where_diffusers_does_in_each_step(
    tiny_svd: Path, photo: Image.Image
) -> None:
    engine = hold(tiny_svd, speedups.ON_GPU)
    clip = clip_of(engine, num_inference_steps=4)
    theirs = fetch(str(tiny_svd), None, torch.float32)
    with Waits(theirs.scheduler) as waits:
        of_diffusers(theirs, photo, clip)
    assert waits.count == 2 * 4
    pipeline, picture = engine.pipeline, fit_picture(photo, clip.width, clip.height, clip.fit)
    with torch.no_grad(), Waits(pipeline.scheduler) as waits:
        conditions = conditioning.read_conditions(pipeline, picture, clip)
        denoising.denoise(pipeline, conditions, clip, Attempt())
    assert waits.on_host
    assert waits.count == 0


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("called")


def test_neither_clips_processor_nor_the_video_processor_is_used(
    tiny_svd: Path, photo: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = hold(tiny_svd)
    for processor in (engine.pipeline.feature_extractor, engine.pipeline.video_processor):
        monkeypatch.setattr(type(processor), "__call__", refuse, raising=False)
        monkeypatch.setattr(type(processor), "preprocess", refuse)
    clip = clip_of(engine)
    assert len(engine.render(photo, clip, Attempt())) == clip.num_frames


def test_in_half_precision_the_encoder_stays_in_float32_and_nothing_is_cast_to_and_fro(
    tiny_svd: Path, photo: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"width": 16, "height": 16, "num_frames": 2, "num_inference_steps": 1}  # float16 is slow on a CPU
    theirs = fetch(str(tiny_svd), None, torch.float16)
    engine = hold(tiny_svd, (), torch.float16)
    clip = clip_of(engine, **small)
    expected = of_diffusers(theirs, photo, clip)
    vae = engine.pipeline.vae
    monkeypatch.setattr(type(vae), "to", refuse)
    frames = engine.render(photo, clip, Attempt())
    assert (vae.encoder.conv_in.weight.dtype, vae.quant_conv.weight.dtype) == (torch.float32, torch.float32)
    assert {weights.dtype for weights in vae.decoder.parameters()} == {torch.float16}
    assert np.abs(frames - 255 * expected).max() <= 1


def test_frames_are_decoded_in_chunks_of_one_size_and_come_as_bytes(
    tiny_svd: Path, photo: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, copied = hold(tiny_svd), []
    copy = decoding.copy

    def keep(pixels: Any, *given: Any) -> None:
        copied.append((tuple(pixels.shape), pixels.dtype))
        copy(pixels, *given)

    monkeypatch.setattr(decoding, "copy", keep)
    engine.render(photo, clip_of(engine, num_frames=7), Attempt())
    assert copied == [((size, 32, 32, 3), torch.uint8) for size in (3, 3, 1)]


def test_on_a_gpu_frames_are_copied_beside_what_is_queued_next(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    current, aside, pixels, frames = (SimpleNamespace() for _ in range(4))
    aside.wait_stream = lambda stream: told.append(f"waits for the chunk: {stream is current}")
    pixels.record_stream = lambda stream: told.append(f"kept for the copy: {stream is aside}")
    frames.copy_ = lambda given, non_blocking: told.append(f"copied: {given is pixels}, {non_blocking}")

    @contextmanager
    def on_stream(stream: object) -> Iterator[None]:
        told.append(f"on its stream: {stream is aside}")
        yield

    monkeypatch.setattr(torch.cuda, "current_stream", lambda: current)
    monkeypatch.setattr(torch.cuda, "stream", on_stream)
    decoding.copy(pixels, frames, aside)
    assert told == ["waits for the chunk: True", "on its stream: True", "copied: True, True", "kept for the copy: True"]


def test_on_a_gpu_a_part_counts_once_the_device_is_done_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    waited: list[object] = []

    class FakeEvent:
        def __init__(self, blocking: bool) -> None:
            assert blocking

        def record(self) -> None:
            made.append(self)

        def synchronize(self) -> None:
            waited.append(self)

    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    done: list[int] = []
    attempt = Attempt()
    monkeypatch.setattr(attempt, "advance", lambda parts, total: done.append(parts))
    steps = device_progress.DeviceProgress(attempt, 3, torch.device("cuda"))
    for step in range(3):
        steps.queued()
        assert steps.last is made[-1]
        assert waited == made[:step]
    assert done == [0, 1, 2]


@pytest.fixture
def compiled(tiny_svd: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Svd, list[str]]]:
    """An engine with every change, and a note of each run of a compiled program. The programs run as they were
    captured: what inductor makes of such a model takes minutes on a CPU (`scripts/bench svd` has it)."""
    runs: list[str] = []
    compile_module = torch.nn.Module.compile

    def capture(program: Any, _inputs: Any) -> Any:
        def run(*given: Any) -> Any:
            runs.append("ran")
            return program.forward(*given)

        return run

    monkeypatch.setattr(torch.nn.Module, "compile", lambda model, **how: compile_module(model, backend=capture, **how))
    engine = hold(tiny_svd, speedups.ON_GPU + speedups.COMPILED)
    assert engine.compiled
    runs.clear()
    yield engine, runs
    engine.unload()


def test_the_default_clip_runs_compiled_and_others_as_they_are(
    compiled: tuple[Svd, list[str]],
    photo: Image.Image,
    expected: Callable[[str], np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine, runs = compiled
    seen = Seen(engine, monkeypatch)
    for name in ("guided", "noisy", "wide", "unguided", "guided"):
        runs.clear()
        seen.render(photo, **CLIPS[name])
        assert np.abs(seen.pixels - expected(name)).max() < AGREES, name
        steps, chunks = (0 if name == "unguided" else 2), 2
        assert len(runs) == (0 if name == "wide" else steps + chunks), name


def test_the_fast_profile_runs_compiled_in_each_kind_of_step(
    compiled: tuple[Svd, list[str]], tiny_svd: Path, photo: Image.Image
) -> None:
    engine, runs = compiled
    clip = clip_of(engine, profile="fast", num_inference_steps=7)
    expected = hold(tiny_svd).render(photo, clip, Attempt()).astype(int)
    runs.clear()
    frames = engine.render(photo, clip, Attempt())
    assert len(runs) == 7 + 2
    assert np.abs(frames - expected).max() <= 1


def test_a_memory_plan_that_is_not_compiled_leaves_what_is(
    compiled: tuple[Svd, list[str]], photo: Image.Image, expected: Callable[[str], np.ndarray]
) -> None:
    engine, runs = compiled
    for plan, steps in ((None, 2), ("12 GB", 0), ("8 GB", 0), (None, 2)):
        runs.clear()
        frames = engine.render(photo, clip_of(engine, memory_plan=plan), Attempt())
        assert len(runs) == steps + 2, plan  # frames are decoded by the same program
        assert np.abs(frames - 255 * expected("guided")).max() < 0.5 + 255 * AGREES, plan


def test_where_nothing_can_be_compiled_clips_are_rendered_without(
    tiny_svd: Path,
    photo: Image.Image,
    expected: Callable[[str], np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[str] = []
    monkeypatch.setattr("worker.engines.svd.svd.log", SimpleNamespace(warning=lambda event, **_: told.append(event)))
    compile_module = torch.nn.Module.compile

    def no_compiler(*_: object) -> None:
        raise FileNotFoundError("no C compiler")

    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda model, **how: compile_module(model, backend=no_compiler, **how)
    )
    engine = hold(tiny_svd, speedups.ON_GPU + speedups.COMPILED)
    assert not engine.compiled
    assert told == ["engine_not_compiled"]
    seen = Seen(engine, monkeypatch)
    seen.render(photo)
    assert np.abs(seen.pixels - expected("guided")).max() < AGREES
    engine.unload()


def test_a_gpu_lost_while_it_is_loaded_is_lost_and_not_tried_again_here(
    tiny_svd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(*_: object) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr("worker.engines.gpu_faults.still_works", lambda: False)
    monkeypatch.setattr("worker.engines.svd.frames.denoise", lose)
    monkeypatch.setattr(speedups, "worth_it", lambda _device: speedups.ON_GPU + speedups.COMPILED)
    with pytest.raises(GpuLost):
        create_engine(tiny_svd).load()
