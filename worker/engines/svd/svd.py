"""Stable Video Diffusion: a seed gives the frames that diffusers' own pipeline gives, only sooner; and what is near
them sooner still, for whoever asks for the profile `fast`.

diffusers loads the models, and they and the scheduler are its own; worker/svd/ has what lies between a picture and its
frames. torch is imported only once an engine loads, so that a worker without it can still say what is missing.
"""

import gc
from collections.abc import Callable
from importlib.metadata import version as find_version
from typing import TYPE_CHECKING, Any, ClassVar

import structlog
from PIL import Image

from core.config.settings import Settings
from core.engines.base import Engine
from core.errors import EngineUnavailable, GpuLost, OutOfMemory
from core.plan.parts import parts
from core.requests.clip import ClipRequest, ClipSettings
from core.requests.resolve import resolve
from worker.attempt import Attempt
from worker.engines.base import Frames, Renderer
from worker.engines.causes import first_line
from worker.engines.gpu_memory import GpuMemory
from worker.engines.svd.weights import advice, fetch, quieten_libraries
from worker.engines.torch_environment import set_torch_environment

if TYPE_CHECKING:
    import torch

    from worker.engines.svd.memory import Compiled
    from worker.engines.svd.speedups import SpeedUp

log = structlog.get_logger(__name__)

SMALL = {"width": 64, "height": 64, "num_frames": 2, "num_inference_steps": 1}


class Svd(Renderer):
    # Of 22.6 s with 25 steps on an H100 the UNet took 19.1 and the decoder 3.4: Stability's TensorRT model card.
    phases: ClassVar = {"encode_image": 0.01, "denoise": 0.84, "decode": 0.15}

    def __init__(self, engine: Engine, settings: Settings, gpu_memory: GpuMemory | None = None) -> None:
        super().__init__(engine, settings, gpu_memory)
        self.compiled: Compiled | None = None
        """For which clips; all others run as they are."""
        self.weights: dict[str, int] = {}
        """Bytes of those of each phase."""
        self.plan: str | None = None
        """Of the default clip."""
        self.not_compiled: str | None = None
        """Why compiling failed."""
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
            set_torch_environment()
            import diffusers  # noqa: F401 - only to see that it is there
            import torch
            import transformers  # noqa: F401 - likewise
        except (ImportError, OSError) as exc:  # OSError: a CUDA library that torch needs
            raise EngineUnavailable(f"run pip install -r requirements/svd.txt: {first_line(exc)}") from exc
        from worker.engines.cuda import choose_device, warn_of_others
        from worker.engines.gpu_faults import Fault, fault_of

        quieten_libraries()
        self.device = choose_device(self.gpu_memory.found_gpu)
        try:
            if self.device == "cuda":
                warn_of_others()
            self.hold(self.fetch(torch.float16 if self.device == "cuda" else torch.float32), device=self.device)
        except GpuLost:  # not even to unload can be done on it by this process
            raise
        except Exception as exc:  # whatever a library raises, the operator gets one line that says what to do
            if fault_of(exc) is Fault.LOST:
                raise GpuLost(f"the GPU failed while {self.engine.model} was loaded: {first_line(exc)}") from exc
            self.unload()
            raise EngineUnavailable(advice(exc, self.engine, self.settings)) from exc

    def fetch(self, dtype: "torch.dtype") -> Any:
        """The pipeline, on the CPU. Raises whatever a library does."""
        return fetch(str(self.engine.model), self.engine.revision, dtype)

    def hold(self, pipeline: Any, speed_ups: "tuple[SpeedUp, ...] | None" = None, device: str | None = None) -> None:
        """Render with `pipeline` on `device`, or where it is; changed by `speed_ups`, or if None by all that pay there.
        Raises EngineUnavailable if its default clip does not fit."""
        import torch

        from worker.engines.svd.conditioning import keep_encoder_in_float32
        from worker.engines.svd.deep_cache import keep_deep_features
        from worker.engines.svd.feed_forward import part_feed_forwards
        from worker.engines.svd.placing import weights_of
        from worker.engines.svd.speedups import COMPILED, worth_it

        self._pipeline, self.device = pipeline, device or pipeline.device.type
        self.threads = torch.get_num_threads() if self.device == "cpu" else None
        speed_ups = worth_it(self.device) if speed_ups is None else speed_ups
        compiling = [change for change in speed_ups if change in COMPILED]
        for change in (keep_encoder_in_float32, part_feed_forwards, *speed_ups):
            if change not in compiling:
                change(pipeline)
        if self.engine.approximation:
            keep_deep_features(pipeline.unet, self.engine.approximation.fresh_layers)
        self.weights = weights_of(pipeline)
        try:
            self._warm_up(compiling)
        except OutOfMemory as error:
            self.gpu_memory.forget(self.engine.name)  # another program may have had it, and be gone at the next try
            less = "free some of the GPU's memory, or ask for less by VIDEO_WIDTH, VIDEO_HEIGHT or VIDEO_FRAMES"
            raise EngineUnavailable(f"{less}: {error.message}") from error

    def _warm_up(self, compiling: "list[SpeedUp]") -> None:
        """Try out, and compile, so that the first clip runs as every later one. Raises OutOfMemory if the default clip
        fits by no plan."""
        from worker.engines.svd.probes import Probes, choose_ways

        self._ask_memory()
        self._fitting(self._usual_clip())  # what cannot fit is said at once
        if self.device == "cuda" or not compiling:
            self._fit(lambda: self.with_memory_plan(self._usual_clip().model_copy(update=SMALL)), {})
        self._ask_memory()  # again: what loaded its kernels has taken some
        if self.device == "cuda":
            clip = (self._compiled_clip() if compiling else None) or self._fitting(self._usual_clip())
            self.kernels = choose_ways(self.pipeline, clip, Probes(), self.device)
        if compiling:
            self._compile(compiling)
        if self.device == "cuda" and not self.compiled:
            self._fit(lambda: self.with_memory_plan(self._usual_clip()), {"num_inference_steps": 1})
        self.plan = self.with_memory_plan(self._usual_clip()).memory_plan

    def _ask_memory(self) -> None:
        """How much of the GPU there is for torch now."""
        from worker.engines.svd.memory import total_bytes

        if self.device == "cuda":
            self.gpu_memory.total = total_bytes()

    def _usual_clip(self) -> ClipSettings:
        """What a request gets that says nothing else, or of a longer one a part."""
        clip, _ = resolve(ClipRequest(engine=self.engine.name, seed=0), self.engine, self.settings)
        return parts(clip, self.engine, self.settings)[0].settings

    def _compile(self, changes: "list[SpeedUp]") -> None:
        """By rendering the default clip. If that cannot be, every clip is rendered without."""
        from worker.engines.svd.compiling import compile_no_more, uncompile

        if self._compiled_clip() is None:
            return
        for change in changes:
            change(self.pipeline)
        tries: list[dict[str, Any]] = [{"num_inference_steps": 1}]
        if self.engine.approximation:  # as many steps as it takes to see each kind of them
            tries.append({"profile": "fast", "num_inference_steps": 2 * self.engine.approximation.full_every})
        try:
            self._fit(self._compiled_clip, *tries)
        except GpuLost:
            raise
        except Exception as error:  # no C compiler, a full disk, a bug of the compiler's: clips can do without
            self.not_compiled = first_line(error)
            log.warning("engine_not_compiled", engine=self.engine.name, reason=self.not_compiled)
            self.compiled = None
        if not self.compiled:
            uncompile(self.pipeline)
        compile_no_more()

    def _compiled_clip(self) -> ClipSettings | None:
        """The default clip by the first plan that it fits once it is compiled."""
        from worker.engines.svd.memory import Compiled, fitting_compiled, needed, plan_of

        usual, name = self._usual_clip(), self.engine.name
        if self.gpu_memory.total is None:
            clip: ClipSettings | None = self.with_memory_plan(usual)
            clip = clip if clip and plan_of(clip).is_whole else None
        else:
            ran_out = self.gpu_memory.ran_out(name)
            clip = fitting_compiled(usual, self.gpu_memory.total, self.weights, ran_out)
            if clip:
                self.gpu_memory.make_room(name, needed(clip, self.weights, Compiled(clip)))
        self.compiled = Compiled(clip) if clip else None
        return clip

    def _fit(self, with_memory_plan: Callable[[], ClipSettings | None], *changes: dict[str, Any]) -> None:
        """Render the default clip with each of `changes`, as `with_memory_plan` has it; if memory runs out, as it has
        it next, until it has nothing."""
        while clip := with_memory_plan():
            attempt = Attempt()
            try:
                for change in changes:
                    self._try_out(clip.model_copy(update=change), attempt)
            except OutOfMemory:
                if self.gpu_memory.total is None:
                    raise
                self._remember(clip, str(attempt.phase_name))
            else:
                return

    def _try_out(self, clip: ClipSettings, attempt: Attempt) -> None:
        self.render(Image.new("RGB", (clip.width, clip.height), "gray"), clip, attempt)

    def _remember(self, clip: ClipSettings, phase: str) -> None:
        """That memory ran out in a phase of `clip`, settled; or if other engines were there, unload those instead."""
        from worker.engines.svd.memory import needed_by_phase

        if not self.gpu_memory.make_all_room(self.engine.name):
            counted = needed_by_phase(clip, self.weights, self.compiled)[phase]
            self.gpu_memory.remember(self.engine.name, phase, counted)

    def memory(self) -> dict[str, Any]:
        if self.gpu_memory.total is None:
            return {}
        from worker.engines.svd.memory import GB

        free = self.gpu_memory.room(self.engine.name)
        fit = {"memory_plan": self.plan, "gpu_free_gb": round(free / GB, 1), "compiled": bool(self.compiled)}
        return fit | {"kernels": self.kernels}

    @property
    def resident_bytes(self) -> int:
        from worker.engines.svd.placing import bytes_on_gpu

        pipeline = self._pipeline  # another thread may ask while this engine leaves
        return bytes_on_gpu(pipeline) if pipeline else 0

    def with_memory_plan(self, clip: ClipSettings) -> ClipSettings:
        from worker.engines.svd.memory import needed

        settled = self._fitting(clip)
        if self.gpu_memory.total is not None and not clip.memory_plan:
            self.gpu_memory.make_room(self.engine.name, needed(settled, self.weights, self.compiled))
        return settled

    def _fitting(self, clip: ClipSettings) -> ClipSettings:
        """`clip` settled as it is made once this engine has the GPU to itself. Raises OutOfMemory."""
        from worker.engines.svd.memory import ON_CPU, fitting, with_memory_plan

        if clip.memory_plan:
            return clip
        if self.gpu_memory.total is None:
            return with_memory_plan(clip, ON_CPU)
        ran_out = self.gpu_memory.ran_out(self.engine.name)
        return fitting(clip, self.gpu_memory.total, self.weights, self.compiled, ran_out)

    def with_smaller_plan(self, clip: ClipSettings, settled: ClipSettings, phase: str | None) -> ClipSettings | None:
        if self.gpu_memory.total is None or phase not in self.phases:
            return None
        self._remember(settled, phase)
        while True:
            try:
                return self.with_memory_plan(clip)
            except OutOfMemory:
                if phase != "decode" or (clip.decode_chunk_size or 1) == 1:
                    return None
            clip = clip.model_copy(update={"decode_chunk_size": (clip.decode_chunk_size or 0) // 2})

    def render(self, picture: Image.Image, clip: ClipSettings, attempt: Attempt) -> Frames:
        """Raises Stopped, OutOfMemory, EngineFailed: after each of them the next clip is right. Raises GpuLost."""
        from worker.engines.gpu_faults import told_apart
        from worker.engines.svd.frames import make_frames

        clip = self.with_memory_plan(clip)
        approximation = self.engine.approximation if clip.profile == "fast" else None
        with told_apart(lambda: f"the phase {attempt.phase_name}", lambda: what_fits(clip, attempt.phase_name)):
            return make_frames(self.pipeline, picture, clip, attempt, approximation, self.device)

    def versions(self) -> dict[str, str]:
        import diffusers
        import torch
        import transformers

        from worker.engines.cuda import gpu_versions

        versions = {module.__name__: str(module.__version__) for module in (torch, diffusers, transformers)}
        if self.device == "cuda":
            versions |= gpu_versions()
        if self.compiled:  # by which the rounding differs a little
            versions |= {"triton": find_version("triton")}
        return versions

    def unload(self) -> None:
        if self._pipeline is None:
            return
        import torch

        from worker.engines.svd.compiling import uncompile

        uncompile(self._pipeline)
        self._pipeline, self.compiled = None, None
        gc.collect()  # the modules refer to one another; only what nothing refers to leaves the GPU
        torch.cuda.empty_cache()


def what_fits(clip: ClipSettings, phase: str | None) -> str:
    chunk = clip.decode_chunk_size
    less = "a smaller decode_chunk_size" if phase == "decode" and chunk != 1 else "a smaller size or fewer num_frames"
    return (
        f"{clip.num_frames} frames of {clip.width}×{clip.height}, {chunk} decoded at once, need more GPU memory than "
        f"there is; {less} would need less"
    )
