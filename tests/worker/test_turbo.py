"""The engine `turbo` on a tiny checkpoint: against diffusers' own pipeline, and files that it must not take."""

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from core.config.settings import Settings
from core.engines.known import find_engine
from core.errors import EngineUnavailable
from core.requests.clip import Clip
from tests.worker.conftest import SVD_MARKS
from tests.worker.test_hostile_weights import WRITERS
from tests.worker.test_svd import Shown
from tests.worker.test_svd_speedups import AGREES, NAMED, Seen, Waits
from worker.attempt import Attempt
from worker.engines.svd import conditioning, denoising, speedups
from worker.engines.svd.turbo import Turbo
from worker.media.fit import fit_picture

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from safetensors.torch import load_file, save_file

from harness.tiny_svd import build_tiny_turbo, load_stock
from worker.engines.svd.consistency import ConsistencyScheduler

pytestmark = SVD_MARKS

SMALL = {"width": 32, "height": 32, "num_frames": 4, "decode_chunk_size": 3, "seed": 7}
CLIPS = {
    "four steps": {},
    "eight steps": {"num_inference_steps": 8, "seed": 2**32 - 1},
    "one step": {"num_inference_steps": 1},
    "wide": {"width": 64, "height": 32, "num_frames": 2, "num_inference_steps": 5},
    "tall, many frames": {"width": 32, "height": 64, "num_frames": 7, "fps": 20, "motion_bucket_id": 255},
    "noisy": {"noise_aug_strength": 1.0},
}


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The UNet's file in a cache of the hub; what is not there cannot be had."""
    return build_tiny_turbo(tmp_path_factory.mktemp("hub"))


@pytest.fixture(autouse=True)
def offline(cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(cached.parents[3], monkeypatch)


def use(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The UNet's file in another cache, which may be damaged."""
    file = build_tiny_turbo(tmp_path)
    use(tmp_path / "hub", monkeypatch)
    return file


def create(model: Path | str) -> Turbo:
    settings = Settings(_env_file=None, model_id=str(model))
    return Turbo(find_engine("turbo", settings), settings)


def clip_of(engine: Turbo, **changes: Any) -> Clip:
    return Clip(engine="turbo", **engine.engine.defaults | SMALL | changes)


def reason(model: Path | str) -> str:
    with pytest.raises(EngineUnavailable) as caught:
        create(model).load()
    assert "\n" not in caught.value.message
    return caught.value.message


@pytest.fixture(scope="module")
def stock(tiny_svd: Path, cached: Path) -> Any:
    """diffusers' pipeline, with the UNet's file read as those who use it do."""
    pipeline = load_stock(tiny_svd)
    pipeline.unet.load_state_dict(load_file(cached))
    return pipeline


def of_diffusers(pipeline: Any, photo: Image.Image, clip: Clip) -> np.ndarray:
    """Pixels from 0 to 1. What the scheduler draws comes from the seed too, after all that the pipeline draws."""
    seed = torch.Generator("cpu").manual_seed(clip.seed)
    scheduler = pipeline.scheduler = ConsistencyScheduler()
    scheduler.step = partial(scheduler.step, generator=seed)
    given = clip.model_dump(include=NAMED, exclude_none=True) | {"min_guidance_scale": 1, "max_guidance_scale": 1}
    picture = fit_picture(photo, clip.width, clip.height, clip.fit)
    frames: np.ndarray = pipeline(picture, generator=seed, output_type="np", **given).frames[0]
    return frames


@pytest.fixture(scope="module")
def expected(stock: Any, photo: Image.Image, tiny_svd: Path) -> dict[str, np.ndarray]:
    engine = create(tiny_svd)
    return {name: of_diffusers(stock, photo, clip_of(engine, **changes)) for name, changes in CLIPS.items()}


@pytest.mark.parametrize(
    "speed_ups", [(), speedups.EVERYWHERE, speedups.ON_GPU], ids=["the loop alone", "on a CPU", "on a GPU"]
)
def test_it_agrees_with_diffusers_clip_after_clip(
    tiny_svd: Path,
    photo: Image.Image,
    expected: dict[str, np.ndarray],
    speed_ups: tuple[speedups.SpeedUp, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = create(tiny_svd)
    engine.hold(engine.fetch(torch.float32), speed_ups)
    seen = Seen(engine, monkeypatch)
    for name in [*CLIPS, "four steps"]:
        frames, pixels = seen.render(photo, **SMALL | CLIPS[name]), expected[name]
        assert np.abs(seen.pixels - pixels).max() < AGREES, name
        assert np.abs(frames - 255 * pixels).max() < 0.5 + 255 * AGREES, name
        if not speed_ups:
            assert np.array_equal(seen.pixels, pixels), name


@pytest.fixture(scope="module")
def turbo(tiny_svd: Path, cached: Path) -> Turbo:
    engine = create(tiny_svd)
    with pytest.MonkeyPatch.context() as patch:
        use(cached.parents[3], patch)
        engine.load()
    return engine


def render(engine: Turbo, photo: Image.Image, **changes: Any) -> np.ndarray:
    return engine.render(photo, clip_of(engine, **changes), Attempt())


def test_the_noise_of_every_step_comes_from_the_seed(turbo: Turbo, photo: Image.Image) -> None:
    first = render(turbo, photo)
    torch.manual_seed(1)
    assert not np.array_equal(render(turbo, photo, seed=8), first)
    torch.manual_seed(2)
    assert np.array_equal(render(turbo, photo), first)


def test_the_loop_never_waits_for_the_device(turbo: Turbo, photo: Image.Image) -> None:
    pipeline, clip = turbo.pipeline, clip_of(turbo)
    picture = fit_picture(photo, clip.width, clip.height, clip.fit)
    with torch.no_grad(), Waits(pipeline.scheduler) as waits:
        conditions = conditioning.read_conditions(pipeline, picture, clip)
        denoising.denoise(pipeline, conditions, clip, Attempt())
    assert waits.on_host
    assert waits.count == 0


def test_the_unet_sees_one_sample_in_each_step(turbo: Turbo, photo: Image.Image) -> None:
    batches: list[int] = []
    hook = turbo.pipeline.unet.register_forward_pre_hook(lambda _, given: batches.append(len(given[0])))
    render(turbo, photo)
    hook.remove()
    assert batches == [1, 1, 1, 1]


def test_it_is_compiled_for_its_own_default_clip(tiny_svd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.nn.Module, "compile", lambda *_, **__: None)
    engine, small = create(tiny_svd), {"width": 64, "height": 128, "num_frames": 2}
    engine.engine = replace(engine.engine, defaults=engine.engine.defaults | small)
    pipeline, shapes = engine.fetch(torch.float32), []
    pipeline.unet.register_forward_pre_hook(lambda _, given: shapes.append(tuple(given[0].shape)))
    engine.hold(pipeline, speedups.ON_GPU + speedups.COMPILED)
    assert engine.compiled
    assert shapes == [(1, 2, 8, 64, 32)]
    engine.unload()


def test_what_it_takes_for_the_clip_is_shown_after_each_step(turbo: Turbo, photo: Image.Image) -> None:
    attempt = Shown()
    frames = turbo.render(photo, clip_of(turbo), attempt)
    assert [picture.n_frames for picture in attempt.pictures] == [4] * 4
    assert np.array_equal(render(turbo, photo), frames)


def test_the_models_own_unet_is_not_needed(tiny_svd: Path, tmp_path: Path, cached: Path) -> None:
    folder = Path(shutil.copytree(tiny_svd, tmp_path / "model"))
    next(folder.glob("unet/*.safetensors")).unlink()
    unet = create(folder).fetch(torch.float16).unet
    assert {weights.dtype for weights in unet.parameters()} == {torch.float16}
    theirs = load_file(cached)
    assert theirs.keys() == unet.state_dict().keys()
    assert all(torch.equal(unet.state_dict()[name], weights.half()) for name, weights in theirs.items())


def test_a_file_that_lacks_weights_is_refused(tiny_svd: Path, file: Path) -> None:
    weights = load_file(file)
    weights.pop("conv_in.weight")
    save_file(weights, file)
    assert reason(tiny_svd) == (
        f"delete {file} to fetch it anew, or set MODEL_ID to the model that it was made of: it is no UNet like that of "
        f"{tiny_svd}: Error(s) in loading state_dict for UNetSpatioTemporalConditionModel: "
        'Missing key(s) in state_dict: "conv_in.weight".'
    )


def test_weights_of_another_shape_are_refused(tiny_svd: Path, file: Path) -> None:
    save_file(load_file(file) | {"conv_in.weight": torch.zeros(64, 8, 3, 3)}, file)
    assert "size mismatch for conv_in.weight" in reason(tiny_svd)


def test_another_models_file_is_refused_in_one_short_line(tiny_svd: Path, file: Path) -> None:
    shutil.copy(next(tiny_svd.glob("vae/*.safetensors")), file)
    assert reason(tiny_svd).startswith(f"delete {file} to fetch it anew, or set MODEL_ID")
    assert len(reason(tiny_svd)) < 800


@pytest.mark.parametrize("write", WRITERS)
def test_a_pickle_by_the_files_name_is_not_unpickled(tiny_svd: Path, file: Path, tmp_path: Path, write: Any) -> None:
    write(file, tmp_path / "canary")
    assert reason(tiny_svd).startswith(f"delete {file} to fetch it anew")
    assert not (tmp_path / "canary").exists()


def test_a_file_that_cannot_be_had_is_named_with_its_repository(tiny_svd: Path, file: Path) -> None:
    file.unlink()
    said = "let this worker reach Hugging Face once: wangfuyun/AnimateLCM-SVD-xt is not in its cache (HF_HOME)"
    assert reason(tiny_svd) == said


def test_a_model_that_cannot_be_had_is_named_as_for_svd_xt() -> None:
    assert reason("someone/some-model") == (
        "let this worker reach Hugging Face once: someone/some-model is not in its cache (HF_HOME), "
        "or set MODEL_ID to a local folder"
    )
