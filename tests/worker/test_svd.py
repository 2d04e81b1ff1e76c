"""The SVD engine against diffusers itself, on a tiny checkpoint of the real classes."""

import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

from core.config.settings import Settings
from core.engines.known import find_engine
from core.errors import EngineFailed, EngineUnavailable, GpuLost, OutOfMemory
from core.requests.clip import Clip
from tests.worker.conftest import SVD_MARKS
from worker.attempt import Attempt, Stopped
from worker.engines.svd import latents
from worker.engines.svd.latents import show_emerging, to_rgb
from worker.engines.svd.svd import Svd, fetch
from worker.media.fit import fit_picture

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from harness.tiny_svd import load_stock

pytestmark = SVD_MARKS

ROOT = Path(__file__).parents[2]


class Subscription(Attempt):
    """Keeps what was reported as (phase, done, total), and stops when told that `at` = (phase, done) is reached."""

    def __init__(self, at: tuple[str, int] | None = None) -> None:
        super().__init__(Svd.phases)
        self.at = at
        self.reports: list[tuple[str | None, int, int]] = []
        self.percents: list[int] = []

    def advance(self, done: int, total: int) -> None:
        self.reports.append((self.phase_name, done, total))
        if (self.phase_name, done) == self.at:
            self.stop()
        super().advance(done, total)
        self.percents.append(self.progress)


def create_svd(model: Path | str) -> Svd:
    settings = Settings(_env_file=None, model_id=str(model))
    return Svd(find_engine("svd-xt", settings), settings)


def tiny_clip(**changes: Any) -> Clip:
    small = {"width": 32, "height": 32, "num_frames": 4, "num_inference_steps": 3, "decode_chunk_size": 3, "seed": 7}
    return Clip(engine="svd-xt", **find_engine("svd-xt", Settings(_env_file=None)).defaults | small | changes)


def reason(model: Path | str) -> str:
    with pytest.raises(EngineUnavailable) as caught:
        create_svd(model).load()
    return caught.value.message


@pytest.fixture(scope="module")
def svd(tiny_svd: Path) -> Svd:
    engine = create_svd(tiny_svd)
    engine.load()
    return engine


@pytest.fixture(scope="module")
def stock(tiny_svd: Path, svd: Svd) -> Any:
    return load_stock(tiny_svd, svd.pipeline.dtype).to(svd.device)


@pytest.fixture(scope="module")
def fresh(svd: Svd, photo: Image.Image) -> np.ndarray:
    """The frames of `tiny_clip()`, before anything went wrong."""
    return svd.render(photo, tiny_clip(), Attempt())


PASSED_ON = {
    *("width", "height", "num_frames", "num_inference_steps", "min_guidance_scale", "max_guidance_scale"),
    *("fps", "motion_bucket_id", "noise_aug_strength", "decode_chunk_size"),
}


def diffusers_frames(stock: Any, photo: Image.Image, clip: Clip) -> np.ndarray:
    picture = fit_picture(photo, clip.width, clip.height, clip.fit)
    generator = torch.Generator("cpu").manual_seed(clip.seed)
    pictures = stock(picture, generator=generator, **clip.model_dump(include=PASSED_ON)).frames[0]
    return np.stack([np.asarray(picture) for picture in pictures])


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="guided"),
        pytest.param({"max_guidance_scale": 1.0}, id="unguided"),
        pytest.param({"width": 128, "height": 64, "num_frames": 2, "num_inference_steps": 2}, id="wide"),
        pytest.param({"num_frames": 5, "decode_chunk_size": 5, "fps": 1, "seed": 2**32 - 1}, id="decoded at once"),
        pytest.param({"motion_bucket_id": 255, "noise_aug_strength": 1.0, "num_inference_steps": 1}, id="one step"),
    ],
)
def test_a_seed_gives_the_frames_that_diffusers_gives(
    svd: Svd, stock: Any, photo: Image.Image, changes: dict[str, Any]
) -> None:
    clip = tiny_clip(**changes)
    frames = svd.render(photo, clip, Attempt())
    assert frames.dtype == np.uint8
    assert frames.shape == (clip.num_frames, clip.height, clip.width, 3)
    expected = diffusers_frames(stock, photo, clip)
    assert np.abs(frames.astype(int) - expected).max() <= 1  # where a pixel lies between two numbers
    assert (frames != expected).mean() < 0.001


def test_another_seed_gives_another_clip(svd: Svd, photo: Image.Image, fresh: np.ndarray) -> None:
    assert not np.array_equal(svd.render(photo, tiny_clip(seed=8), Attempt()), fresh)


def test_progress_counts_every_step_and_never_falls(svd: Svd, photo: Image.Image) -> None:
    attempt = Subscription()
    svd.render(photo, tiny_clip(num_inference_steps=5), attempt)
    steps = [1, 2, 3, 4, 5] if svd.device == "cpu" else [0, 1, 2, 3, 4]  # the last is told by the phase's end
    assert attempt.reports == [("denoise", done, 5) for done in steps] + [("decode", 1, 2), ("decode", 2, 2)]
    assert attempt.percents == sorted(attempt.percents)
    assert attempt.progress == 99


def test_each_phase_is_timed(svd: Svd, photo: Image.Image) -> None:
    attempt = Attempt(svd.phases)
    svd.render(photo, tiny_clip(), attempt)
    assert list(attempt.seconds) == list(Svd.phases)
    assert sum(Svd.phases.values()) == pytest.approx(1)
    assert attempt.seconds["denoise"] > attempt.seconds["encode_image"]


def test_a_stop_comes_through_within_a_step_and_leaves_the_next_clip_right(
    svd: Svd, photo: Image.Image, fresh: np.ndarray
) -> None:
    attempt, calls = Attempt(), []

    def stop_in_the_second_step(*_: object) -> None:
        calls.append(1)
        if len(calls) == 2:
            attempt.stop()

    hook = svd.pipeline.unet.register_forward_hook(stop_in_the_second_step)
    with pytest.raises(Stopped):
        svd.render(photo, tiny_clip(num_inference_steps=20), attempt)
    hook.remove()
    assert len(calls) <= (2 if svd.device == "cpu" else 3)
    assert np.array_equal(svd.render(photo, tiny_clip(), Attempt()), fresh)


@pytest.mark.parametrize("at", [("denoise", 1), ("decode", 1)])
def test_a_stop_in_either_long_phase_leaves_the_next_clip_right(
    svd: Svd, photo: Image.Image, fresh: np.ndarray, at: tuple[str, int]
) -> None:
    attempt = Subscription(at)
    with pytest.raises(Stopped):
        svd.render(photo, tiny_clip(), attempt)
    assert attempt.reports[-1][:2] == at
    assert np.array_equal(svd.render(photo, tiny_clip(), Attempt()), fresh)


def test_an_attempt_stopped_before_it_began_does_nothing(svd: Svd, photo: Image.Image) -> None:
    attempt = Attempt()
    attempt.stop()
    with pytest.raises(Stopped):
        svd.render(photo, tiny_clip(), attempt)
    assert attempt.seconds == {}


def raises(error: Exception) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("part", "method", "phase", "advice"),
    [
        ("vae", "encode", "encode_image", "a smaller size or fewer num_frames"),
        ("unet", "forward", "denoise", "a smaller size or fewer num_frames"),
        ("vae", "decode", "decode", "a smaller decode_chunk_size"),
    ],
)
def test_too_little_memory_is_said_with_what_would_fit_and_the_next_clip_is_right(
    svd: Svd,
    photo: Image.Image,
    fresh: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    part: str,
    method: str,
    phase: str,
    advice: str,
) -> None:
    attempt = Attempt()
    with monkeypatch.context() as patch:
        patch.setattr(getattr(svd.pipeline, part), method, raises(torch.OutOfMemoryError("CUDA out of memory.")))
        with pytest.raises(OutOfMemory) as caught:
            svd.render(photo, tiny_clip(), attempt)
    assert attempt.phase_name == phase
    assert caught.value.message == (
        f"4 frames of 32×32, 3 decoded at once, need more GPU memory than there is; {advice} would need less"
    )
    assert np.array_equal(svd.render(photo, tiny_clip(), Attempt()), fresh)


def test_a_fault_that_ends_the_gpu_for_this_process_is_told_apart(
    svd: Svd, photo: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    monkeypatch.setattr("worker.engines.gpu_faults.still_works", lambda: False)
    monkeypatch.setattr(svd.pipeline.unet, "forward", raises(fault))
    with pytest.raises(GpuLost, match="phase denoise: CUDA error: an illegal memory access"):
        svd.render(photo, tiny_clip(), Attempt())


def test_another_fault_of_torch_is_an_engine_failure_with_its_first_line(
    svd: Svd, photo: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = RuntimeError("CUDA error: an illegal memory access was encountered\nFor debugging consider …")
    monkeypatch.setattr(svd.pipeline.unet, "forward", raises(fault))
    with pytest.raises(EngineFailed) as caught:
        svd.render(photo, tiny_clip(), Attempt())
    expected = "torch failed in the phase denoise: CUDA error: an illegal memory access was encountered"
    assert caught.value.message == expected
    assert caught.value.__cause__ is fault


def test_a_fault_in_the_encoder_does_not_leave_the_vae_in_float32(
    tiny_svd: Path, photo: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = create_svd(tiny_svd)
    engine.hold(fetch(str(tiny_svd), None, torch.float32))
    clip = tiny_clip(width=8, height=8, num_frames=2, num_inference_steps=1)  # float16 is slow on a CPU
    before = engine.render(photo, clip, Attempt())
    with monkeypatch.context() as patch:
        patch.setattr(engine.pipeline.vae, "encode", raises(RuntimeError("cuDNN error")))
        with pytest.raises(EngineFailed):
            engine.render(photo, clip, Attempt())
    assert engine.pipeline.vae.dtype == torch.float32  # as diffusers leaves it
    assert np.array_equal(engine.render(photo, clip, Attempt()), before)


def test_latents_that_are_not_numbers_fail_the_clip_before_it_is_decoded(
    svd: Svd, photo: Image.Image, fresh: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(svd.pipeline.vae, "decode", raises(AssertionError("decoded")))
    bias = svd.pipeline.unet.conv_out.bias.data
    sound = bias.clone()
    bias[0] = float("inf")
    with pytest.raises(EngineFailed) as caught:
        svd.render(photo, tiny_clip(), Attempt())
    assert caught.value.message == "the UNet gave latents that are no numbers: its weights are damaged"
    monkeypatch.setattr(type(svd.pipeline.unet), "dtype", torch.float16)
    with pytest.raises(EngineFailed, match="are damaged, or float16 is too narrow for this clip"):
        svd.render(photo, tiny_clip(), Attempt())
    bias.copy_(sound)


def test_what_float16_is_too_narrow_to_decode_is_decoded_in_float32(
    tiny_svd: Path, photo: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, clip = create_svd(tiny_svd), tiny_clip(width=8, height=8, num_inference_steps=1)
    engine.hold(fetch(str(tiny_svd), None, torch.float16))
    decoder, decoded = engine.pipeline.vae.decoder, []
    expected = engine.render(photo, clip.model_copy(update={"decode_chunk_size": 1}), Attempt()).astype(int)

    def overflow(_: object, __: object, output: Any) -> Any:
        decoded.append((len(output), output.dtype))
        return output * 2.0**40 if output.dtype == torch.float16 else output

    sums = decoder.mid_block.register_forward_hook(overflow)
    attempt = Attempt()
    frames = engine.render(photo, clip, attempt)
    sums.remove()
    assert decoded == [(3, torch.float16), (1, torch.float16)] + [(1, torch.float32)] * 4
    assert attempt.warnings == ["the decoder gave no numbers in float16; this was made in float32, in smaller chunks"]
    assert np.abs(frames - expected).max() <= 2
    assert {weights.dtype for weights in decoder.parameters()} == {torch.float16}


def test_pixels_that_are_not_numbers_fail_the_clip(svd: Svd, photo: Image.Image) -> None:
    bias = svd.pipeline.vae.decoder.conv_out.bias.data
    sound = bias.clone()
    bias[0] = float("nan")
    with pytest.raises(EngineFailed, match="weights are damaged"):
        svd.render(photo, tiny_clip(), Attempt())
    bias.copy_(sound)


def test_a_model_with_damaged_weights_takes_no_work(tiny_svd: Path, tmp_path: Path) -> None:
    pipeline = fetch(str(tiny_svd), None, torch.float32)
    pipeline.vae.decoder.conv_out.bias.data[0] = float("nan")
    pipeline.save_pretrained(tmp_path)
    assert "weights are damaged" in reason(tmp_path)


def test_half_precision_files_are_used_where_a_model_has_them(tiny_svd: Path, tmp_path: Path) -> None:
    both = Path(shutil.copytree(tiny_svd, tmp_path / "both"))
    marked = fetch(str(tiny_svd), None, torch.float16)
    marked.unet.conv_out.bias.data[0] = 2.0
    marked.save_pretrained(both, variant="fp16")
    assert fetch(str(both), None, torch.float16).unet.conv_out.bias[0] == 2.0
    assert fetch(str(both), None, torch.float32).unet.conv_out.bias[0] != 2.0
    assert fetch(str(tiny_svd), None, torch.float16).dtype == torch.float16


def test_loading_and_rendering_print_nothing(
    tiny_svd: Path, photo: Image.Image, capfd: pytest.CaptureFixture[str]
) -> None:
    engine = create_svd(tiny_svd)
    engine.load()
    engine.render(photo, tiny_clip(num_inference_steps=1), Attempt())
    assert capfd.readouterr() == ("", "")


def test_versions_name_the_libraries_that_make_the_frames(svd: Svd) -> None:
    versions = svd.versions()
    assert versions["torch"] == torch.__version__
    assert versions["diffusers"] == diffusers.__version__
    assert set(versions) - {"torch", "diffusers", "transformers"} == (
        {"gpu", "cuda", "cudnn"} if svd.device == "cuda" else set()
    )


def hash_of(frames: np.ndarray) -> str:
    return hashlib.sha256(frames.tobytes()).hexdigest()


def test_as_many_threads_make_the_same_frames_in_any_process(tiny_svd: Path, fresh: np.ndarray) -> None:
    """With two they are not those of one, or not always, so the receipt says how many there were. The other process has
    its memory full of a byte until it is written to (glibc's MALLOC_PERTURB_)."""
    code = f"""if True:
        from PIL import Image
        from harness.pictures import SAMPLES
        from {__name__} import Attempt, Path, create_svd, hash_of, tiny_clip, torch
        svd = create_svd(Path({str(tiny_svd)!r}))
        svd.load()
        photo = Image.open(SAMPLES / "cat.jpg").convert("RGB")
        print(svd.threads)
        for threads in (2, 2, 1):
            torch.set_num_threads(threads)
            print(hash_of(svd.render(photo, tiny_clip(), Attempt())))
    """
    # passive: on a busy machine two threads that spin wait for each other for most of a minute
    environment = os.environ | {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive", "MALLOC_PERTURB_": "170"}
    command = [sys.executable, "-W", "ignore", "-c", code]
    process = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, check=True, text=True, timeout=120
    )
    threads, by_two, by_two_again, by_one = process.stdout.split()
    assert (threads, by_two, by_one) == ("2", by_two_again, hash_of(fresh))


def test_an_unloaded_engine_does_not_render(tiny_svd: Path, photo: Image.Image) -> None:
    engine = create_svd(tiny_svd)
    engine.unload()
    engine.hold(fetch(str(tiny_svd), None, torch.float32))
    engine.unload()
    with pytest.raises(EngineUnavailable, match="load svd-xt before it renders"):
        engine.render(photo, tiny_clip(), Attempt())


@pytest.mark.parametrize("name", ["/no/such/folder", "./models", "models"])
def test_a_missing_folder_is_named(name: str) -> None:
    assert reason(name) == f"set MODEL_ID to a folder or a name on Hugging Face: there is no folder {name}"


def test_pickled_weights_are_not_read(tiny_svd: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_svd, tmp_path / "pickled"))
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.unlink()
    weights.with_suffix(".bin").write_bytes(b"")
    assert reason(folder) == f"put safetensors into {folder}/unet: other weights (.bin, .ckpt) are not read"


def test_a_broken_file_is_reported_in_one_line(tiny_svd: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_svd, tmp_path / "broken"))
    (folder / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"half a download")
    assert reason(folder).startswith(f"check {folder}, it does not load: ")
    assert "\n" not in reason(folder)


def test_a_model_too_large_for_the_device_is_said_before_it_takes_work(
    tiny_svd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = raises(torch.OutOfMemoryError("CUDA out of memory."))
    monkeypatch.setattr("worker.engines.svd.frames.place", full)
    assert reason(tiny_svd) == (
        "free some of the GPU's memory, or ask for less by VIDEO_WIDTH, VIDEO_HEIGHT or VIDEO_FRAMES: 2 frames of "
        "64×64, 2 decoded at once, need more GPU memory than there is; a smaller size or fewer num_frames would need "
        "less"
    )


def test_a_model_that_is_not_cached_offline_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert reason("someone/some-model") == (
        "let this worker reach Hugging Face once: someone/some-model is not in its cache (HF_HOME), "
        "or set MODEL_ID to a local folder"
    )


class RefusingHub(http.server.BaseHTTPRequestHandler):
    """Answers as Hugging Face does for a model whose owner's name says what is wrong with it."""

    refusals: ClassVar = {
        "gated": (401, "GatedRepo"),
        "unknown": (401, "RepoNotFound"),
        "moved": (404, "RevisionNotFound"),
    }

    def do_GET(self) -> None:
        owner = self.path.removeprefix("/api/models").split("/")[1]
        status, code = self.refusals.get(owner, (403, ""))
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), RefusingHub) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


LOAD_EACH = """
import json, sys
sys.modules.update(dict.fromkeys(sys.argv[2:]))  # an import of a name that stands for None fails
from core.config.settings import Settings
from core.engines.known import find_engine
from core.errors import EngineUnavailable
from worker.engines.svd.svd import Svd

reasons = []
for model in json.loads(sys.argv[1]):
    settings = Settings(_env_file=None, model_id=model)
    try:
        Svd(find_engine("svd-xt", settings), settings).load()
    except EngineUnavailable as exc:
        reasons.append(exc.message)
print(json.dumps(reasons))
"""


def reasons_elsewhere(models: list[str], *, missing: tuple[str, ...] = (), **environment: str) -> list[str]:
    """Why each model does not load in a process of its own, with the modules `missing` and this environment."""
    command = [sys.executable, "-c", LOAD_EACH, json.dumps(models), *missing]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, check=True)
    reasons: list[str] = json.loads(done.stdout)
    return reasons


def test_a_refusal_of_the_hub_says_what_to_do(hub: str, tmp_path: Path) -> None:
    models = ["gated/model", "unknown/model", "moved/model", "closed/model"]
    gated, unknown, moved, closed = reasons_elsewhere(models, HF_ENDPOINT=hub, HF_HOME=str(tmp_path))
    assert gated.startswith("accept the licence at https://huggingface.co/gated/model and set HF_TOKEN")
    assert unknown.startswith("check the name and HF_TOKEN: https://huggingface.co/unknown/model")
    assert moved.startswith("set MODEL_REVISION: https://huggingface.co/moved/model has no revision 9e4390")
    assert closed.startswith("check HF_TOKEN and the licence at https://huggingface.co/closed/model")


def test_without_torch_the_engine_says_what_to_install() -> None:
    assert reasons_elsewhere(["someone/some-model"], missing=("torch",)) == [
        "run pip install -r requirements/svd.txt: import of torch halted; None in sys.modules"
    ]


class Shown(Attempt):
    """Makes every picture that is shown, as a thread elsewhere would, but at once."""

    def __init__(self) -> None:
        super().__init__(Svd.phases)
        self.pictures: list[Image.Image] = []

    def offer_preview(self, make: Callable[[], bytes]) -> None:
        self.pictures.append(Image.open(BytesIO(make())))


def test_what_emerges_is_shown_after_each_step_and_changes_no_pixel(
    svd: Svd, photo: Image.Image, fresh: np.ndarray
) -> None:
    attempt = Shown()
    assert np.array_equal(svd.render(photo, tiny_clip(), attempt), fresh)
    found = [(picture.format, picture.size, getattr(picture, "n_frames", 1)) for picture in attempt.pictures]
    assert found == [("WEBP", (32, 32), 4)] * 3  # twice the size of the latents, which this tiny VAE only halves


def test_what_is_shown_is_what_the_scheduler_predicts(
    svd: Svd, photo: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    predicted, shown = [], []
    scheduler = svd.pipeline.scheduler
    step = scheduler.step

    def keep(*given: Any, **named: Any) -> Any:
        output = step(*given, **named)
        predicted.append(output.pred_original_sample[0].numpy())
        return output

    def keep_shown(latents: np.ndarray) -> np.ndarray:
        shown.append(latents)
        return to_rgb(latents)

    monkeypatch.setattr(scheduler, "step", keep)
    monkeypatch.setattr(latents, "to_rgb", keep_shown)
    svd.render(photo, tiny_clip(num_inference_steps=6), Shown())
    assert len(shown) == 6
    assert all(np.array_equal(seen, meant) for seen, meant in zip(shown, predicted, strict=True))


def test_a_scheduler_that_tells_no_prediction_shows_nothing() -> None:
    attempt = Shown()
    show_emerging(SimpleNamespace(prev_sample=torch.zeros(1, 2, 4, 8, 8)), None, attempt, 7)
    assert attempt.pictures == []
