"""Models that would run code as they load: each is refused in one line, and none of it runs."""

import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from core.config.engines import SVD_XT_REVISION
from core.config.settings import Settings
from core.engines.known import find_engine
from core.errors import EngineUnavailable
from worker.engines.svd.svd import Svd

torch = pytest.importorskip("torch")

# diffusers' Euler scheduler gives a tensor to np.array, and torch 2.13's __array__ has no `copy` yet.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

PARTS = ("unet", "vae", "image_encoder")


class Evil:
    """Unpickled it makes a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.canary,)


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


@pytest.fixture
def model(tiny_svd: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_svd, tmp_path / "model"))


def refusal(model: Path | str) -> str:
    settings = Settings(_env_file=None, model_id=str(model))
    with pytest.raises(EngineUnavailable) as caught:
        Svd(find_engine("svd-xt", settings), settings).load()
    assert "\n" not in caught.value.message
    return caught.value.message


def plain_pickle(path: Path, canary: Path) -> None:
    path.write_bytes(pickle.dumps(Evil(canary)))


def torch_archive(path: Path, canary: Path) -> None:
    """What torch.save writes: a zip with a pickle in it."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Evil(canary)))
        archive.writestr("archive/version", "3")


WRITERS: list[Callable[[Path, Path], None]] = [plain_pickle, torch_archive]
NAMES = [
    "diffusion_pytorch_model.bin",
    "diffusion_pytorch_model.fp16.bin",
    "pytorch_model.bin",
    "model.pt",
    "model.pth",
    "model.ckpt",
    "diffusion_pytorch_model.safetensors",  # a pickle by another name
    "model.safetensors",
]


def only_pickled(model: Path, canary: Path, write: Callable[[Path, Path], None], names: list[str]) -> None:
    for part in PARTS:
        for weights in model.glob(f"{part}/*.safetensors"):
            weights.unlink()
        for name in names:
            write(model / part / name, canary)


@pytest.mark.parametrize("write", WRITERS)
def test_the_planted_pickle_works(write: Callable[[Path, Path], None], tmp_path: Path, canary: Path) -> None:
    write(tmp_path / "model.bin", canary)
    if write is torch_archive:
        torch.load(tmp_path / "model.bin", weights_only=False)
    else:
        pickle.loads((tmp_path / "model.bin").read_bytes())
    assert canary.exists()


@pytest.mark.parametrize("write", WRITERS)
def test_a_folder_with_pickled_weights_only_is_refused(
    model: Path, canary: Path, write: Callable[[Path, Path], None]
) -> None:
    only_pickled(model, canary, write, [name for name in NAMES if not name.endswith(".safetensors")])
    assert refusal(model).startswith("put safetensors into ")
    assert not canary.exists()


@pytest.mark.parametrize("write", WRITERS)
def test_a_pickle_that_is_called_safetensors_is_not_unpickled(
    model: Path, canary: Path, write: Callable[[Path, Path], None]
) -> None:
    only_pickled(model, canary, write, NAMES)
    assert refusal(model).startswith(f"check {model}, it does not load: ")
    assert not canary.exists()


@pytest.mark.parametrize("write", WRITERS)
def test_a_pickle_beside_safetensors_is_not_read(
    model: Path, canary: Path, write: Callable[[Path, Path], None]
) -> None:
    for part in PARTS:
        for name in NAMES:
            if not (model / part / name).exists():
                write(model / part / name, canary)
    for weights in model.glob("image_encoder/*.safetensors"):
        weights.unlink()
    assert refusal(model).startswith("put safetensors into ")
    assert not canary.exists()


def test_a_repository_of_the_hub_with_pickled_weights_only_is_refused(
    model: Path, canary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_pickled(model, canary, torch_archive, [name for name in NAMES if not name.endswith(".safetensors")])
    cached_as(tmp_path / "cache", model, monkeypatch)
    assert "safetensors" in refusal("someone/pickled")
    assert not canary.exists()


def cached_as(cache: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's cache holds `model` as someone/pickled, at the pinned revision."""
    snapshots = cache / "models--someone--pickled" / "snapshots"
    snapshots.mkdir(parents=True)
    shutil.move(model, snapshots / SVD_XT_REVISION)
    for name in ("HF_HUB_OFFLINE", "HF_HUB_CACHE"):
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", str(cache) if name == "HF_HUB_CACHE" else True)
    monkeypatch.setattr("diffusers.utils.constants.HF_HUB_CACHE", str(cache), raising=False)


def plant(path: Path, canary: Path) -> None:
    path.write_text(f"from pathlib import Path\nPath({str(canary)!r}).touch()\nclass Planted: pass\n")


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def custom_pipeline(model: Path, canary: Path) -> None:
    plant(model / "planted.py", canary)
    plant(model / "pipeline.py", canary)
    change(model / "model_index.json", _class_name=["planted", "Planted"])


def custom_component(model: Path, canary: Path) -> None:
    plant(model / "unet" / "planted.py", canary)
    change(model / "model_index.json", unet=["planted", "Planted"])


def any_module(model: Path, canary: Path) -> None:
    change(model / "model_index.json", scheduler=["subprocess", "Popen"])


def module_of_the_folder(model: Path, canary: Path) -> None:
    plant(model / "planted.py", canary)
    change(model / "model_index.json", image_encoder=["planted", "Planted"])


def code_of_transformers(model: Path, canary: Path) -> None:
    plant(model / "image_encoder" / "planted.py", canary)
    change(model / "image_encoder" / "config.json", auto_map={"AutoModel": "planted.Planted"}, trust_remote_code=True)
    change(model / "model_index.json", image_encoder=["transformers", "AutoModel"])


def processor_of_transformers(model: Path, canary: Path) -> None:
    plant(model / "feature_extractor" / "planted.py", canary)
    config = model / "feature_extractor" / "preprocessor_config.json"
    change(config, auto_map={"AutoImageProcessor": "planted.Planted"})
    change(model / "model_index.json", feature_extractor=["transformers", "AutoImageProcessor"])


CUSTOM = [
    custom_pipeline,
    custom_component,
    any_module,
    module_of_the_folder,
    code_of_transformers,
    processor_of_transformers,
]


@pytest.mark.parametrize("prepare", CUSTOM)
def test_a_model_with_code_of_its_own_is_refused(
    model: Path, canary: Path, prepare: Callable[[Path, Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(model, canary)
    monkeypatch.chdir(model)
    monkeypatch.syspath_prepend(model)  # the worst place that a worker could be started in
    assert refusal(model).startswith(f"use another model: {model} has ")
    assert not canary.exists()


def test_code_that_nothing_names_does_not_run(model: Path, canary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pipeline.py", "modeling.py", "unet/model.py", "__init__.py", "unet/__init__.py"):
        plant(model / name, canary)
    change(model / "image_encoder" / "config.json", auto_map={"AutoModel": "planted.Planted"})
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    settings = Settings(_env_file=None, model_id=str(model))
    engine = Svd(find_engine("svd-xt", settings), settings)
    engine.load()
    engine.unload()
    assert not canary.exists()
