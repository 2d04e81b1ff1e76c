"""RIFE in the place of optical flow: weights whose answer is known, random ones in the published layout, and files that
must not be taken. The weights that were trained are not here: how near the truth they come is not tested."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray

from core.config.settings import Settings
from core.engines.base import Engine
from core.engines.known import motion_engine
from core.errors import EngineFailed, EngineUnavailable, GpuLost, OutOfMemory
from core.status import Status
from core.storage import input_key
from tests.worker.conftest import stored
from tests.worker.test_hostile_weights import WRITERS
from tests.worker.test_runner import do, picture
from tests.worker.test_smooth import HEIGHT, WIDTH, begin, panned, seen, smooth
from worker.attempt import Attempt
from worker.engines.host import EngineHost
from worker.media.smooth import between, smoothed
from worker.media.video import stored_frames
from worker.media.yuv import as_rgb
from worker.run.runner import WorkerContext
from worker.steps.base import StepContext
from worker.steps.smooth import SmoothStep

torch = pytest.importorskip("torch")

from safetensors.torch import save_file

from worker.engines.rife.rife import Rife

Bytes = NDArray[np.uint8]
Weights = dict[str, torch.Tensor]

# diffusers' Euler scheduler gives a tensor to np.array, and torch 2.13's __array__ has no `copy` yet.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

SCALES = {"block0": 8, "block1": 4, "block2": 2, "block3": 1}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """On a busy machine two wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def layout() -> dict[str, tuple[int, ...]]:
    """Names and shapes as they are published."""
    found: dict[str, tuple[int, ...]] = {}
    for block, planes, width in (("block0", 7, 192), ("block1", 12, 128), ("block2", 12, 96), ("block3", 12, 64)):
        name = f"module.{block}."
        found |= {f"{name}conv0.0.0.weight": (width // 2, planes, 3, 3), f"{name}conv0.0.0.bias": (width // 2,)}
        found |= {f"{name}conv0.1.0.weight": (width, width // 2, 3, 3), f"{name}conv0.1.0.bias": (width,)}
        for index in range(8):
            layer = f"{name}convblock.{index}."
            found |= {f"{layer}beta": (1, width, 1, 1)}
            found |= {f"{layer}conv.weight": (width, width, 3, 3), f"{layer}conv.bias": (width,)}
        found |= {f"{name}lastconv.0.weight": (width, 24, 4, 4), f"{name}lastconv.0.bias": (24,)}
    return found


def random_weights() -> Weights:
    chance = torch.Generator().manual_seed(0)
    return {name: 0.02 * torch.randn(shape, generator=chance) for name, shape in layout().items()}


def saying(**said: tuple[float, ...]) -> Weights:
    """Of each block what it adds, wherever and whatever it sees: flow into the one (right, down), into the other, and
    mask."""
    weights = random_weights()
    for block in SCALES:
        weights[f"module.{block}.lastconv.0.weight"].zero_()
        planes = torch.tensor([*said.get(block, [0.0] * 5), 0.0])
        weights[f"module.{block}.lastconv.0.bias"] = planes.repeat_interleave(4)
    return weights


def rife_of(weights: Weights, folder: Path) -> Rife:
    path = folder / "flownet.pkl"
    torch.save(weights, path)
    return loaded(path)


def loaded(path: Path) -> Rife:
    settings = Settings(_env_file=None, rife_weights=path)
    rife = Rife(cast(Engine, motion_engine(settings)), settings)
    rife.load()
    return rife


def use(rife: Rife | None, context: WorkerContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the worker smooths motion by."""
    monkeypatch.setattr(EngineHost, "motion", rife and rife.engine)
    if rife:
        context.engine_host.loaded["rife"] = rife


@pytest.fixture(scope="module")
def rife(tmp_path_factory: pytest.TempPathFactory) -> Rife:
    """With random weights."""
    return rife_of(random_weights(), tmp_path_factory.mktemp("rife"))


def mean(one: Bytes, other: Bytes) -> NDArray[np.float64]:
    return (one.astype(float) + other) / 2


@pytest.mark.parametrize("size", [(64, 64), (66, 130), (320, 192)])
def test_a_net_that_sees_no_motion_gives_the_mean_of_both_frames_up_to_the_edges(
    size: tuple[int, int], tmp_path: Path
) -> None:
    one, other = (as_rgb(frame)[: size[1], : size[0]].copy() for frame in (panned(0), panned(1)))
    found = rife_of(saying(), tmp_path).between(one, other, 0.3)
    assert (found.shape, found.dtype) == (one.shape, np.uint8)
    assert np.abs(found - mean(one, other)).max() <= 0.51


@pytest.mark.parametrize("block", SCALES)
def test_each_block_moves_both_frames_by_its_flow_in_its_scale(block: str, tmp_path: Path) -> None:
    one, other = as_rgb(panned(0)), as_rgb(seen((100, 80, 420, 272), "coffee"))
    flow = np.array([16, 8, -8, 24]) / SCALES[block]
    for mask, expected in ((50.0, one[8:, 16:]), (-50.0, other[24:, :-8])):
        found = rife_of(saying(**{block: (*flow, mask)}), tmp_path).between(one, other, 0.5)
        into = found[:-8, :-16] if mask > 0 else found[:-24, 8:]
        assert np.abs(into.astype(int) - expected).max() <= 1


def test_what_the_blocks_say_adds_up(tmp_path: Path) -> None:
    one, other = as_rgb(panned(0)), as_rgb(panned(1))
    said = dict.fromkeys(SCALES, (1.0, 0.0, 0.0, 0.0, 20.0))
    found = rife_of(saying(**said), tmp_path).between(one, other, 0.5)
    assert np.abs(found[:, : -sum(SCALES.values())].astype(int) - one[:, sum(SCALES.values()) :]).max() <= 1


def test_beyond_an_edge_is_what_is_at_it(tmp_path: Path) -> None:
    one = as_rgb(panned(0))
    found = rife_of(saying(block0=(-4.0, 0.0, 0.0, 0.0, 50.0)), tmp_path).between(one, one, 0.5)
    assert np.abs(found[:, :32].astype(int) - one[:, :1]).max() <= 1


def test_the_moment_decides_what_is_seen(rife: Rife) -> None:
    one, other = as_rgb(panned(0)), as_rgb(panned(1))
    early, late = (rife.between(one, other, moment) for moment in (0.1, 0.9))
    assert not np.array_equal(early, late)
    assert np.array_equal(early, rife.between(one, other, 0.1))


def test_frames_of_the_same_moment_are_the_very_same(rife: Rife) -> None:
    frames = [panned(time) for time in range(3)]
    found = list(smoothed(frames, 2, 3, rife.motion))  # those at 0, 1 s are at 0, 3
    assert len(found) == 4
    assert np.array_equal(found[0], frames[0])
    assert np.array_equal(found[3], frames[2])
    assert [frame.shape for frame in found[1:3]] == [(HEIGHT, WIDTH, 3)] * 2


def test_at_a_cut_the_nearer_frame_stays(rife: Rife) -> None:
    first, second = seen((100, 80, 420, 272), "cat"), seen((100, 80, 420, 272), "coffee")
    found = between(first, second, [0.1, 0.49, 0.5, 0.9], rife.motion)
    assert [np.array_equal(frame, first) for frame in found] == [True, True, False, False]
    assert [np.array_equal(frame, second) for frame in found] == [False, False, True, True]


def test_a_clip_is_smoothed_and_its_receipt_says_by_what(
    context: WorkerContext, rife: Rife, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(rife, context, monkeypatch)
    task = smooth(context)
    assert task.status == Status.FINISHED
    video = tmp_path / "video.mp4"
    video.write_bytes(stored(context, task.task_id, "video"))
    assert len(list(stored_frames(video))) == 5 * 30 // 7 + 1
    assert task.receipt is not None
    smoothing = task.receipt["smoothing"]
    assert (smoothing["method"], smoothing["weights_sha256"]) == ("RIFE 4.6", rife.sha256)
    assert (smoothing["libraries"]["torch"], smoothing["threads"]) == (torch.__version__, 1)


def test_colours_are_those_of_optical_flow(
    context: WorkerContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing moves, no frame differs from the one before it, whether it was there or was worked out."""
    video = tmp_path / "video.mp4"
    use(rife_of(saying(), tmp_path), context, monkeypatch)
    task = begin(context, width=64, height=64)
    context.storage.put(input_key(task.task_id, "picture"), picture())
    for _ in range(2):
        do(context.ledger.steps_to_wake(0)[0].step_id, context)
    video.write_bytes(stored(context, task.task_id, "video"))
    frames = np.stack(list(stored_frames(video))).astype(int)
    assert len(frames) == 22
    assert np.abs(frames - frames[0]).max() <= 1


@pytest.mark.parametrize("by_rife", [True, False])
def test_rife_has_the_engines_place_and_optical_flow_goes_beside_it(
    context: WorkerContext, rife: Rife, by_rife: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(rife if by_rife else None, context, monkeypatch)
    task = begin(context, width=64, height=64)
    context.storage.put(input_key(task.task_id, "picture"), picture())
    do(context.ledger.steps_to_wake(0)[0].step_id, context)
    claim = context.ledger.claim(context.ledger.steps_to_wake(0)[0].step_id, "w1", 60)
    assert claim is not None
    attempt = Attempt()
    step = SmoothStep(StepContext(claim, attempt, context.storage, context.engine_host, context.pictures, tmp_path))
    step.prepare()
    step.render()
    assert ("smooth" in attempt.seconds) == by_rife


@pytest.mark.parametrize(
    ("fault", "works", "known"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True, OutOfMemory),
        (RuntimeError("Triton Error [CUDA]: out of memory"), True, OutOfMemory),
        (torch.AcceleratorError("CUDA error: unspecified launch failure"), False, GpuLost),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), True, EngineFailed),
    ],
)
def test_a_gpu_that_fails_is_told_apart(
    fault: Exception, works: bool, known: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.engines.gpu_faults.still_works", lambda: works)
    rife = rife_of(saying(), tmp_path)

    def fails(*_: object) -> None:
        raise fault

    with monkeypatch.context() as patch:
        patch.setattr(rife.net, "forward", fails)
        with pytest.raises(known):
            list(smoothed([panned(0), panned(1)], 7, 14, rife.motion))
    assert len(list(smoothed([panned(0), panned(1)], 7, 14, rife.motion))) == 3


# The file


def test_safetensors_are_as_good_and_names_need_no_prefix(rife: Rife, tmp_path: Path) -> None:
    path = tmp_path / "rife.safetensors"
    save_file({name.removeprefix("module."): tensor for name, tensor in random_weights().items()}, path)
    one, other = as_rgb(panned(0)), as_rgb(panned(1))
    again = loaded(path)
    assert np.array_equal(again.between(one, other, 0.5), rife.between(one, other, 0.5))
    assert again.sha256 != rife.sha256


def test_what_only_training_needs_may_be_there(rife: Rife, tmp_path: Path) -> None:
    trained = rife_of(random_weights() | {"module.teacher.conv0.0.0.bias": torch.zeros(3)}, tmp_path)
    one, other = as_rgb(panned(0)), as_rgb(panned(1))
    assert np.array_equal(trained.between(one, other, 0.5), rife.between(one, other, 0.5))


def refusal(path: Path) -> str:
    with pytest.raises(EngineUnavailable) as caught:
        loaded(path)
    assert "\n" not in caught.value.message
    assert caught.value.message.startswith("set RIFE_WEIGHTS to the flownet.pkl of RIFE 4.6, ")
    assert str(path) in caught.value.message
    return caught.value.message


NAME = "module.block0.conv0.0.0.weight"
OTHERS: dict[str, Callable[[Weights], object]] = {
    "another version's shapes": lambda weights: weights | {NAME: torch.zeros(96, 15, 3, 3)},
    "one missing": lambda weights: {name: tensor for name, tensor in weights.items() if name != NAME},
    "one more": lambda weights: weights | {"module.block4.conv0.0.0.weight": torch.zeros(1)},
    "no tensor": lambda weights: weights | {NAME: "none"},
    "a list": lambda weights: list(weights.values()),
    "one tensor": lambda weights: weights[NAME],
    "nothing": lambda weights: {},
}


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
def test_other_weights_are_refused_in_one_line(change: Callable[[Weights], object], tmp_path: Path) -> None:
    path = tmp_path / "flownet.pkl"
    torch.save(change(random_weights()), path)
    assert "cannot be used" in refusal(path)


@pytest.mark.parametrize("name", ["flownet.pkl", "rife.safetensors"])
def test_what_is_no_file_of_weights_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    assert "FileNotFoundError" in refusal(path)
    for data in (b"", b"half a download", bytes(100_000)):
        path.write_bytes(data)
        refusal(path)
    path.unlink()
    path.mkdir()
    assert "IsADirectoryError" in refusal(path)


@pytest.mark.parametrize("name", ["flownet.pkl", "rife.safetensors"])
@pytest.mark.parametrize("write", WRITERS)
def test_code_in_the_file_does_not_run(write: Callable[[Path, Path], None], name: str, tmp_path: Path) -> None:
    path, canary = tmp_path / name, tmp_path / "canary"
    write(path, canary)
    refusal(path)
    assert not canary.exists()


# The worker


def on_gpu_queue(settings: Settings, tiny_svd: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> EngineHost:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    return EngineHost(settings.model_copy(update={"model_id": str(tiny_svd), "rife_weights": weights}), "gpu")


def test_a_worker_whose_clips_can_be_smoothed_loads_it(
    settings: Settings, tiny_svd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "flownet.pkl"
    engine_host = on_gpu_queue(settings, tiny_svd, weights, monkeypatch)
    with pytest.raises(EngineUnavailable):
        engine_host.preload()
    said = engine_host.report()
    assert not any(engine["ready"] for engine in said.values())
    assert all(engine["reason"].startswith("set RIFE_WEIGHTS to ") for engine in said.values())
    torch.save(random_weights(), weights)
    engine_host.preload()
    assert list(engine_host.loaded) == ["svd-xt", "rife"]
    assert all(engine["ready"] for engine in engine_host.report().values())


def test_a_worker_without_torch_does_not_look_for_it(settings: Settings) -> None:
    engine_host = EngineHost(settings.model_copy(update={"rife_weights": Path("/no/such/file")}), "cpu")
    engine_host.preload()
    assert (engine_host.motion, list(engine_host.loaded)) == (None, ["preview"])
    assert engine_host.report()["preview"]["ready"]
