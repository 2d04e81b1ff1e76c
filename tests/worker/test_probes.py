"""Which ways are chosen as an engine loads, and that each is the same convolution, or attention."""

import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from core.errors import GpuLost
from tests.worker.conftest import SVD_MARKS
from worker.attempt import Attempt

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from bench.peak import build
from tests.worker.test_memory import native
from tests.worker.test_svd_speedups import AGREES, Seen, clip_of, hold
from worker.engines.svd import attention, probes, speedups, temporal_convolution
from worker.engines.svd.memory import with_memory_plan
from worker.engines.svd.probes import Probes, choose_ways

pytestmark = SVD_MARKS


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> dict[int, float]:
    """What each way takes, by the number that it returns."""
    took: dict[int, float] = {}

    def time(self: Probes, work: Callable[[], Any]) -> float:
        return took[int(work()[0])]

    monkeypatch.setattr(Probes, "_time", time)
    return took


def ways(**numbers: int) -> dict[str, Callable[[], Any]]:
    return {name: lambda number=number: torch.full((200,), float(number)) for name, number in numbers.items()}


def test_the_way_that_takes_least_is_chosen_and_kept(tmp_path: Path, seconds: dict[int, float]) -> None:
    path = tmp_path / "kept" / "choices.json"
    seconds |= {1000: 3.0, 1001: 1.0, 1002: 2.0}
    asked = ways(slow=1000, fast=1001, middling=1002)
    assert Probes(path).fastest("a sum", asked) == "fast"
    seconds[1001] = 9.0  # on a busier day
    assert Probes(path).fastest("a sum", asked) == "fast"
    assert Probes(path).fastest("another sum", asked) == "middling"
    (kept,) = json.loads(path.read_text()).values()
    assert kept == {"a sum": "fast", "another sum": "middling"}


def test_another_gpu_or_another_torch_finds_its_own(
    tmp_path: Path, seconds: dict[int, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds |= {1000: 1.0, 1001: 2.0}
    asked = ways(one=1000, other=1001)
    assert Probes(tmp_path / "choices.json").fastest("a sum", asked) == "one"
    monkeypatch.setattr(Probes, "_here", lambda _: "another GPU")
    seconds[1000] = 3.0
    assert Probes(tmp_path / "choices.json").fastest("a sum", asked) == "other"


def fails(error: Exception) -> Callable[[], Any]:
    def fail() -> None:
        raise error

    return fail


def test_a_way_that_fails_or_is_wrong_is_left_out(tmp_path: Path, seconds: dict[int, float]) -> None:
    seconds |= {1000: 5.0, 2000: 1.0, 1001: 4.0}
    asked = ways(right=1000, wrong=2000, near=1001)
    asked["refused"] = fails(RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"))
    asked = {"no number": lambda: torch.full((200,), float("nan"))} | asked
    assert Probes(tmp_path / "choices.json").fastest("a sum", asked) == "near"
    assert Probes(tmp_path / "choices.json").fastest("none", {"refused": asked["refused"]}) is None


def test_a_choice_for_which_memory_ran_out_is_not_kept(tmp_path: Path, seconds: dict[int, float]) -> None:
    seconds |= {1000: 2.0, 1001: 1.0}
    asked = ways(one=1000) | {"other": fails(torch.OutOfMemoryError("CUDA out of memory."))}
    path = tmp_path / "choices.json"
    assert Probes(path).fastest("a sum", asked) == "one"
    assert Probes(path).fastest("a sum", ways(one=1000, other=1001)) == "other"


def test_at_full_size_the_widest_layers_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(Probes, "fastest", lambda _, what, __: asked.append(what))
    clip = with_memory_plan(native(), "24 GB")
    pipeline = build()
    for pinned in attention.pinned_in(pipeline.unet):
        pinned.seen = None
    choose_ways(pipeline, clip, Probes(Path("nowhere")), "meta")
    assert asked == ["convolution of 2 × 320 × 25 × 72 × 128", "convolution of 1 × 128 × 13 × 576 × 1024"]


def test_a_gpu_lost_in_a_probe_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.engines.gpu_faults.still_works", lambda: False)
    asked = {"flash": fails(RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"))}
    with pytest.raises(GpuLost, match="in a probe, attention by flash"):
        Probes(tmp_path / "choices.json").fastest("attention", asked)


@pytest.mark.parametrize("content", ["{", "[]", '{"a GPU": 1}', ""])
def test_a_damaged_file_is_found_anew(tmp_path: Path, seconds: dict[int, float], content: str) -> None:
    seconds[1000] = 1.0
    (tmp_path / "choices.json").write_text(content)
    assert Probes(tmp_path / "choices.json").fastest("a sum", ways(one=1000)) == "one"


def test_choices_that_cannot_be_kept_hold_for_now(tmp_path: Path, seconds: dict[int, float]) -> None:
    seconds[1000] = 1.0
    (tmp_path / "file").touch()
    found = Probes(tmp_path / "file" / "choices.json")
    assert found.fastest("a sum", ways(one=1000)) == "one"


def test_without_a_folder_of_our_own_nothing_is_kept(
    tmp_path: Path, seconds: dict[int, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    seconds[1000] = 1.0
    assert Probes().fastest("a sum", ways(one=1000)) == "one"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("way", temporal_convolution.WAYS)
def test_each_way_is_the_same_convolution(way: str) -> None:
    layer = torch.nn.Conv3d(6, 4, (3, 1, 1), padding=(1, 0, 0)).requires_grad_(False)
    ours = temporal_convolution.TemporalConvolution(layer)
    ours.way = way
    for frames in (1, 2, 5):
        given = torch.randn(2, 6, frames, 3, 4)
        assert (ours(given) - layer(given)).abs().max() < 1e-5
        last = given.movedim(1, -1).contiguous().movedim(-1, 1)
        assert (ours(last) - layer(given)).abs().max() < 1e-5


@pytest.fixture
def chosen(tiny_svd: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """An engine, and a function that lets it choose, where only some ways work."""
    engine = hold(tiny_svd, speedups.ON_GPU)

    def choose(only: set[str], **changes: Any) -> dict[str, str]:
        def fastest(_: Probes, __: str, ways: dict[str, Any]) -> str:
            (name,) = only & ways.keys()
            assert ways[name]().isfinite().all()
            return name

        monkeypatch.setattr(Probes, "fastest", fastest)
        clip = engine.with_memory_plan(clip_of(engine, **changes))
        return choose_ways(engine.pipeline, clip, Probes(tmp_path / "choices.json"), "cpu")

    small = clip_of(engine, width=64, height=64, num_frames=2, num_inference_steps=1)
    engine.render(Image.new("RGB", (64, 64)), small, Attempt())
    yield SimpleNamespace(engine=engine, choose=choose)
    engine.unload()


def test_an_engine_runs_by_what_was_chosen_and_makes_the_same_clip(
    chosen: Any, photo: Image.Image, tiny_svd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Seen(chosen.engine, monkeypatch)
    seen.render(photo)
    before = seen.pixels
    monkeypatch.setitem(attention.KERNELS, "efficient", attention.SDPBackend.MATH)  # the two that a CPU has
    for only in ({"products", "flash"}, {"conv3d", "efficient"}, {"conv2d", "flash"}):
        found = chosen.choose(only)
        assert set(found.values()) == only
        layers = probes.convolutions(chosen.engine.pipeline.unet) + probes.convolutions(chosen.engine.pipeline.vae)
        assert {layer.way for layer in layers} <= only
        assert {pinned.first for pinned in attention.pinned_in(chosen.engine.pipeline.unet)} <= only
        seen.render(photo)
        assert np.abs(seen.pixels - before).max() < AGREES


@pytest.mark.parametrize("plan", ["16 GB", "8 GB"])
def test_shapes_are_those_that_the_clip_has(
    chosen: Any, photo: Image.Image, monkeypatch: pytest.MonkeyPatch, plan: str
) -> None:
    asked: set[attention.Shape] = set()
    attend = probes.attending
    monkeypatch.setattr(probes, "attending", lambda shape, *how: asked.add(shape) or attend(shape, *how))
    found = chosen.choose(
        {"conv2d", "flash"}, width=128, height=64, num_frames=3, decode_chunk_size=2, memory_plan=plan
    )
    clip = clip_of(chosen.engine, width=128, height=64, num_frames=3, decode_chunk_size=2, memory_plan=plan)
    chosen.engine.render(photo, clip, Attempt())
    assert asked == {pinned.seen for pinned in attention.pinned_in(chosen.engine.pipeline.unet)}
    convolved = [what for what in found if what.startswith("convolution")]
    assert [what.split(" × ")[2:] for what in convolved] == [["3", "8", "16"], ["2", "64", "128"]]


def test_a_pinned_kernel_that_cannot_do_a_shape_leaves_it_to_another(tiny_svd: Path, photo: Image.Image) -> None:
    engine = hold(tiny_svd, speedups.ON_GPU)
    expected = engine.render(photo, clip_of(engine), Attempt())
    for pinned in attention.pinned_in(engine.pipeline.unet):
        pinned.first = "cudnn"  # which no CPU has
    assert np.array_equal(engine.render(photo, clip_of(engine), Attempt()), expected)


def test_what_is_pinned_compiles_into_one_program(tiny_svd: Path, photo: Image.Image) -> None:
    engine = hold(tiny_svd, speedups.ON_GPU)
    unet = engine.pipeline.unet
    for pinned in attention.pinned_in(unet):
        pinned.first = "flash"
    expected = engine.render(photo, clip_of(engine), Attempt()).astype(int)
    programs: list[Any] = []
    torch.compiler.set_stance("default")  # whatever an engine that was compiled before has left
    unet.compile(backend=lambda program, _: programs.append(program) or program.forward, fullgraph=True, dynamic=False)
    frames = engine.render(photo, clip_of(engine), Attempt())
    assert len(programs) == 1  # by whose names torch keeps it
    for name in ("_backend_from_string", "_sdpa_kernel"):
        assert f"torch.nn.attention.{name}(" in programs[0].code
    assert np.abs(frames - expected).max() <= 1
    torch.compiler.reset()
