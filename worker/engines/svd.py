"""Stable Video Diffusion through diffusers' own pipeline: a seed gives the very frames that diffusers gives.

torch is imported only once an engine loads, so that a worker without it can still say what is missing.
"""

import gc
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from PIL import Image

from core.config import Settings
from core.engines import Engine
from core.errors import EngineFailed, EngineUnavailable, GpuLost, OutOfMemory
from core.spec import Clip
from worker.attempt import Attempt
from worker.engines.base import Frames, Renderer
from worker.engines.latents import Emerging
from worker.engines.weights import advice, fetch, first_line, quieten_libraries
from worker.media.fit import fit_picture

if TYPE_CHECKING:
    import torch


class Svd(Renderer):
    # Of 22.6 s with 25 steps on an H100 the UNet took 19.1 and the decoder 3.4: Stability's TensorRT model card.
    phases: ClassVar = {"encode_image": 0.01, "denoise": 0.84, "decode": 0.15}

    def __init__(self, engine: Engine, settings: Settings) -> None:
        super().__init__(engine, settings)
        self._pipeline: Any = None

    @property
    def pipeline(self) -> Any:
        """diffusers' StableVideoDiffusionPipeline (Any, since diffusers' own types do not know its methods)."""
        if self._pipeline is None:
            raise EngineUnavailable(f"load {self.engine.name} before it renders")
        return self._pipeline

    def load(self) -> None:
        try:
            import diffusers  # noqa: F401 - only to see that it is there
            import torch
            import transformers  # noqa: F401 - likewise
        except (ImportError, OSError) as exc:  # OSError: a CUDA library that torch needs
            raise EngineUnavailable(f"run pip install -r requirements/svd.txt: {first_line(exc)}") from exc
        quieten_libraries()
        self.device, dtype = ("cuda", torch.float16) if torch.cuda.is_available() else ("cpu", torch.float32)
        try:
            self.hold(fetch(str(self.engine.model), self.engine.revision, dtype).to(self.device))
        except Exception as exc:  # whatever a library raises, the operator gets one line that says what to do
            self.unload()
            raise EngineUnavailable(advice(exc, self.engine, self.settings)) from exc

    def hold(self, pipeline: Any) -> None:
        """Render with `pipeline`, on the device where it is. A small clip goes first: it loads the GPU's kernels."""
        self._pipeline, self.device = pipeline, pipeline.device.type
        pipeline.set_progress_bar_config(disable=True)
        small = {"width": 64, "height": 64, "num_frames": 2, "num_inference_steps": 1}
        clip = Clip(engine=self.engine.name, seed=0, **self.engine.defaults | small)
        self.render(Image.new("RGB", (64, 64), "gray"), clip, Attempt())

    def render(self, picture: Image.Image, clip: Clip, attempt: Attempt) -> Frames:
        """Raises Stopped, OutOfMemory, EngineFailed: after each of them the next clip is right. Raises GpuLost."""
        import torch

        # An error between the pipeline's two casts leaves the VAE in float32, where it cannot decode float16.
        self.pipeline.vae.to(dtype=self.pipeline.unet.dtype)
        try:
            with torch.no_grad():
                return self._decode(self._denoise(picture, clip, attempt), clip, attempt)
        except torch.OutOfMemoryError as exc:
            traceback.clear_frames(exc.__traceback__)  # or its tensors would live for as long as the error is kept
            torch.cuda.empty_cache()
            raise OutOfMemory(what_fits(clip, attempt.phase_name)) from exc
        except torch.AcceleratorError as exc:  # sticky: every later call on this device fails with it too
            raise GpuLost(f"the GPU failed in the phase {attempt.phase_name}: {first_line(exc)}") from exc
        except RuntimeError as exc:
            raise EngineFailed(f"torch failed in the phase {attempt.phase_name}: {first_line(exc)}") from exc

    def _denoise(self, picture: Image.Image, clip: Clip, attempt: Attempt) -> "torch.Tensor":
        """The clip's latents, (1, num_frames, 4, height / 8, width / 8)."""
        import torch

        emerging = Emerging(attempt, clip.fps)
        steps = FinishedSteps(attempt, clip.num_inference_steps or 0, emerging, on_gpu=self.device == "cuda")
        with encode_then_denoise(attempt, self.pipeline.unet, self._wait_for_device):
            latents: torch.Tensor = self.pipeline(
                fit_picture(picture, clip.width, clip.height, clip.fit),
                height=clip.height,
                width=clip.width,
                num_frames=clip.num_frames,
                num_inference_steps=clip.num_inference_steps,
                min_guidance_scale=clip.min_guidance_scale,
                max_guidance_scale=clip.max_guidance_scale,
                fps=clip.fps,  # as it will play; the pipeline takes one off, as in training
                motion_bucket_id=clip.motion_bucket_id,
                noise_aug_strength=clip.noise_aug_strength,
                generator=torch.Generator("cpu").manual_seed(clip.seed),  # the same noise whatever the device
                output_type="latent",
                callback_on_step_end=steps,
            ).frames
        return latents

    def _decode(self, latents: "torch.Tensor", clip: Clip, attempt: Attempt) -> Frames:
        """What the pipeline does after its last step, with a check point after each chunk of frames."""
        frames = []
        with attempt.phase("decode"):
            chunks = latents.split(clip.decode_chunk_size or clip.num_frames, dim=1)
            for done, chunk in enumerate(chunks, start=1):
                size = chunk.shape[1]
                video = self.pipeline.decode_latents(chunk, num_frames=size, decode_chunk_size=size)
                if not video.isfinite().all():  # NumPy would make a black clip of it, and warn
                    raise EngineFailed("the model gave pixels that are not numbers: its weights are damaged")
                pixels = self.pipeline.video_processor.postprocess_video(video, output_type="np")[0]
                frames.append((pixels * 255).round().astype(np.uint8))
                attempt.advance(done, len(chunks))
        return np.concatenate(frames)

    def _wait_for_device(self) -> None:
        import torch

        if self.device == "cuda":
            torch.cuda.synchronize()

    def versions(self) -> dict[str, str]:
        import diffusers
        import torch
        import transformers

        versions = {module.__name__: str(module.__version__) for module in (torch, diffusers, transformers)}
        if self.device == "cuda":
            versions |= {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}
        return versions

    def unload(self) -> None:
        if self._pipeline is None:
            return
        import torch

        self._pipeline = None
        gc.collect()  # the modules refer to one another; only what nothing refers to leaves the GPU
        torch.cuda.empty_cache()


class FinishedSteps:
    """Reports the denoising steps that the device has finished; on a GPU these are fewer than Python has queued.

    The pipeline calls it when it has queued a step, and it waits for the step before: the GPU always has work, but
    never more than one step of it, so a stop comes through within a step.
    """

    def __init__(self, attempt: Attempt, total: int, emerging: Emerging, *, on_gpu: bool) -> None:
        self.attempt = attempt
        self.total = total
        self.emerging = emerging
        self.on_gpu = on_gpu
        self._queued: torch.cuda.Event | None = None

    def __call__(self, pipeline: Any, step: int, timestep: object, tensors: dict[str, Any]) -> dict[str, Any]:
        """`step` counts from 0; `tensors` go back to the pipeline as they are. Raises Stopped."""
        if self.on_gpu:
            self._wait_for_the_step_before()
        self.emerging.step_queued(pipeline.scheduler, step, tensors["latents"], self._queued)
        self.attempt.advance(step if self.on_gpu else step + 1, self.total)
        return tensors

    def _wait_for_the_step_before(self) -> None:
        import torch

        before, self._queued = self._queued, torch.cuda.Event()
        self._queued.record()
        if before is not None:
            before.synchronize()


@contextmanager
def encode_then_denoise(attempt: Attempt, unet: "torch.nn.Module", wait: Callable[[], None]) -> Iterator[None]:
    """The phase "encode_image" until the UNet is first called, then the phase "denoise".

    `wait` returns when the device has done what was queued, so that each phase is charged for its own work.
    """
    with ExitStack() as phase:

        def denoise(*_: object) -> None:
            hook.remove()
            wait()
            phase.close()
            phase.enter_context(attempt.phase("denoise"))

        phase.enter_context(attempt.phase("encode_image"))
        hook = unet.register_forward_pre_hook(denoise)
        try:
            yield
            wait()
        finally:
            hook.remove()  # where the clip ended before the UNet's turn, it would go off in the next one


def what_fits(clip: Clip, phase: str | None) -> str:
    chunk = clip.decode_chunk_size
    less = "a smaller decode_chunk_size" if phase == "decode" and chunk != 1 else "a smaller size or fewer num_frames"
    return (
        f"{clip.num_frames} frames of {clip.width}×{clip.height}, {chunk} decoded at once, need more GPU memory than "
        f"there is; {less} would need less"
    )
