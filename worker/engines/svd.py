"""Stable Video Diffusion: a seed gives the frames that diffusers' own pipeline gives, only sooner; and what is near
them sooner still, for whoever asks for the profile `fast`.

diffusers loads the models, and they and the scheduler are its own; worker/svd/ has what lies between a picture and its
frames. torch is imported only once an engine loads, so that a worker without it can still say what is missing.
"""

import gc
import traceback
from importlib.metadata import version as find_version
from typing import TYPE_CHECKING, Any, ClassVar

import structlog
from PIL import Image

from core.config import Settings
from core.engines import Engine
from core.errors import EngineFailed, EngineUnavailable, GpuLost, OutOfMemory
from core.parts import parts
from core.spec import Clip, ClipRequest, resolve
from worker.attempt import Attempt
from worker.engines.base import Frames, Renderer
from worker.svd.compile_cache import keep_compiled
from worker.svd.weights import advice, fetch, first_line, quieten_libraries

if TYPE_CHECKING:
    import torch

    from worker.svd.speedups import SpeedUp

log = structlog.get_logger(__name__)

SMALL = {"width": 64, "height": 64, "num_frames": 2, "num_inference_steps": 1}


class Svd(Renderer):
    # Of 22.6 s with 25 steps on an H100 the UNet took 19.1 and the decoder 3.4: Stability's TensorRT model card.
    phases: ClassVar = {"encode_image": 0.01, "denoise": 0.84, "decode": 0.15}

    def __init__(self, engine: Engine, settings: Settings) -> None:
        super().__init__(engine, settings)
        self.compiled = False
        """For the default clip; other shapes run as they are."""
        self.budget: int | None = None
        """Bytes of the GPU's memory without any weights; None on the CPU."""
        self.weights: dict[str, int] = {}
        """Bytes of those of each phase."""
        self.plan: str | None = None
        """Of the default clip."""
        self._pipeline: Any = None

    @property
    def pipeline(self) -> Any:
        """diffusers' StableVideoDiffusionPipeline (Any, since diffusers' own types do not know its methods)."""
        if self._pipeline is None:
            raise EngineUnavailable(f"load {self.engine.name} before it renders")
        return self._pipeline

    def load(self) -> None:
        """Raises GpuLost besides."""
        try:
            keep_compiled()
            import diffusers  # noqa: F401 - only to see that it is there
            import torch
            import transformers  # noqa: F401 - likewise
        except (ImportError, OSError) as exc:  # OSError: a CUDA library that torch needs
            raise EngineUnavailable(f"run pip install -r requirements/svd.txt: {first_line(exc)}") from exc
        quieten_libraries()
        self.device, dtype = ("cuda", torch.float16) if torch.cuda.is_available() else ("cpu", torch.float32)
        try:
            self.hold(self.fetch(dtype), device=self.device)
        except GpuLost:  # not even to unload can be done on it by this process
            raise
        except torch.AcceleratorError as exc:
            raise GpuLost(f"the GPU failed while {self.engine.model} was loaded: {first_line(exc)}") from exc
        except Exception as exc:  # whatever a library raises, the operator gets one line that says what to do
            self.unload()
            raise EngineUnavailable(advice(exc, self.engine, self.settings)) from exc

    def fetch(self, dtype: "torch.dtype") -> Any:
        """The pipeline, on the CPU. Raises whatever a library does."""
        return fetch(str(self.engine.model), self.engine.revision, dtype)

    def hold(self, pipeline: Any, speed_ups: "tuple[SpeedUp, ...] | None" = None, device: str | None = None) -> None:
        """Render with `pipeline` on `device`, or where it is; changed by `speed_ups`, or where None are named by all
        that pay there. Raises EngineUnavailable where its default clip does not fit."""
        import torch

        from worker.svd.conditioning import keep_encoder_in_float32
        from worker.svd.deep_cache import keep_deep_features
        from worker.svd.feed_forward import part_feed_forwards
        from worker.svd.memory import ON_CPU, PLANS
        from worker.svd.speedups import COMPILED, worth_it

        self._pipeline, self.device = pipeline, device or pipeline.device.type
        self.threads = torch.get_num_threads() if self.device == "cpu" else None
        speed_ups = worth_it(self.device) if speed_ups is None else speed_ups
        compiling = [change for change in speed_ups if change in COMPILED]
        for change in (keep_encoder_in_float32, part_feed_forwards, *speed_ups):
            if change not in compiling:
                change(pipeline)
        if self.engine.approximation:
            keep_deep_features(pipeline.unet, self.engine.approximation.fresh_layers)
        self._measure()
        if compiling and PLANS[self.plan or ON_CPU].is_whole:
            for change in compiling:
                change(pipeline)
            self._compile()
        if not self.compiled:
            self._try_out(SMALL)  # which loads the GPU's kernels

    def _measure(self) -> None:
        """How much memory there is, and by which plan the default clip is made in it."""
        from worker.svd.memory import free_bytes
        from worker.svd.placing import weights_of

        self.weights = weights_of(self.pipeline)
        if self.device == "cuda":
            there = sum(self.weights.values()) if self.pipeline.device.type == "cuda" else 0
            self.budget = free_bytes() + there
        try:
            self.plan = self.settle(self._usual_clip()).memory_plan
        except OutOfMemory as error:
            less = "free some of the GPU's memory, or ask for less by VIDEO_WIDTH, VIDEO_HEIGHT or VIDEO_FRAMES"
            raise EngineUnavailable(f"{less}: {error.message}") from error

    def _usual_clip(self) -> Clip:
        """What a request gets that says nothing else, or of a longer one a part."""
        clip, _ = resolve(ClipRequest(engine=self.engine.name, seed=0), self.engine, self.settings)
        return parts(clip, self.engine, self.settings)[0]

    def _compile(self) -> None:
        """By rendering. Where that cannot be, every clip is rendered without."""
        from worker.svd.compiling import compile_no_more, run_uncompiled

        try:
            self._try_out({"num_inference_steps": 1})
            if self.engine.approximation:  # as many steps as it takes to see each kind of them
                self._try_out({"profile": "fast", "num_inference_steps": 2 * self.engine.approximation.full_every})
        except GpuLost:
            raise
        except Exception as error:  # no C compiler, a full disk, a bug of the compiler's: clips can do without
            log.warning("engine_not_compiled", engine=self.engine.name, reason=first_line(error))
            run_uncompiled()
        else:
            self.compiled = True
            compile_no_more()

    def _try_out(self, changes: dict[str, Any]) -> None:
        clip = self._usual_clip().model_copy(update=changes)
        self.render(Image.new("RGB", (clip.width, clip.height), "gray"), clip, Attempt())

    def memory(self) -> dict[str, Any]:
        if self.budget is None:
            return {}
        from worker.svd.memory import GB

        return {"memory_plan": self.plan, "gpu_free_gb": round(self.budget / GB, 1)}

    def settle(self, clip: Clip) -> Clip:
        from worker.svd.memory import ON_CPU, fitting, settle

        if clip.memory_plan:
            return clip
        return settle(clip, ON_CPU) if self.budget is None else fitting(clip, self.budget, self.weights)

    def render(self, picture: Image.Image, clip: Clip, attempt: Attempt) -> Frames:
        """Raises Stopped, OutOfMemory, EngineFailed: after each of them the next clip is right. Raises GpuLost."""
        import torch

        from worker.svd.frames import make_frames

        clip = self.settle(clip)
        approximation = self.engine.approximation if clip.profile == "fast" else None
        try:
            return make_frames(self.pipeline, picture, clip, attempt, approximation, self.device)
        except torch.OutOfMemoryError as exc:
            traceback.clear_frames(exc.__traceback__)  # or its tensors would live for as long as the error is kept
            torch.cuda.empty_cache()
            raise OutOfMemory(what_fits(clip, attempt.phase_name)) from exc
        except torch.AcceleratorError as exc:  # sticky: every later call on this device fails with it too
            raise GpuLost(f"the GPU failed in the phase {attempt.phase_name}: {first_line(exc)}") from exc
        except RuntimeError as exc:
            raise EngineFailed(f"torch failed in the phase {attempt.phase_name}: {first_line(exc)}") from exc

    def versions(self) -> dict[str, str]:
        import diffusers
        import torch
        import transformers

        versions = {module.__name__: str(module.__version__) for module in (torch, diffusers, transformers)}
        if self.device == "cuda":
            versions |= {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}
        if self.compiled:  # by which the rounding differs a little
            versions |= {"triton": find_version("triton")}
        return versions

    def unload(self) -> None:
        if self._pipeline is None:
            return
        import torch

        from worker.svd.compiling import forget_compiled

        self._pipeline, self.compiled = None, False
        forget_compiled()
        gc.collect()  # the modules refer to one another; only what nothing refers to leaves the GPU
        torch.cuda.empty_cache()


def what_fits(clip: Clip, phase: str | None) -> str:
    chunk = clip.decode_chunk_size
    less = "a smaller decode_chunk_size" if phase == "decode" and chunk != 1 else "a smaller size or fewer num_frames"
    return (
        f"{clip.num_frames} frames of {clip.width}×{clip.height}, {chunk} decoded at once, need more GPU memory than "
        f"there is; {less} would need less"
    )
