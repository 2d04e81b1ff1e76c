"""Which of several ways to the same numbers this GPU takes least time for.

They are tried as an engine loads, and the choice is kept beside what was compiled, so that a clip's rounding does not
change from one start to the next.
"""

import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import structlog
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from core.errors import GpuLost
from core.requests.clip import ClipSettings
from worker.engines.causes import first_line
from worker.engines.gpu_faults import Fault, fault_of, give_back
from worker.engines.svd.attention import KERNELS, Shape, pinned_in
from worker.engines.svd.conditioning import is_guided
from worker.engines.svd.memory import at_once, plan_of
from worker.engines.svd.temporal_convolution import WAYS, TemporalConvolution, use_way

RUNS = 3
FEWEST = 16
"""Channels of a layer that counts: the decoder's last one has three, takes no time, and says nothing of the others."""
SOME = 97
"""One of so many numbers is compared: to compare all of them would take twice the memory."""
AGREES = 0.02
"""Of the largest number: what float16 may round otherwise."""

log = structlog.get_logger(__name__)

Choices = dict[str, str]
"""The name of the fastest way, by what is computed: "convolution of 1 × 128 × 13 × 576 × 1024"."""
Work = Callable[[], torch.Tensor]


class Probes:
    """Finds ways, or remembers them for this GPU and these libraries."""

    def __init__(self, path: Path | None = None) -> None:
        """`path` is the file that keeps what was found."""
        self.path = path or kept_file()
        self.kept: dict[str, Choices] = {}
        with suppress(OSError, ValueError):  # none yet, or damaged: found anew
            kept = json.loads(self.path.read_text()) if self.path else None
            if isinstance(kept, dict) and all(isinstance(choices, dict) for choices in kept.values()):
                self.kept = kept

    def fastest(self, what: str, ways: Mapping[str, Work]) -> str | None:
        """Return the name of one of `ways`; None if each of them fails. The first one that works says what is right.

        Raises GpuLost.
        """
        mine = self.kept.setdefault(self._here(), {})
        if mine.get(what) in ways:
            return mine[what]
        seconds: dict[str, float] = {}
        ran_out = False
        expected: torch.Tensor | None = None
        for name, work in ways.items():
            try:
                found = work()  # loads its kernels, and warms up
                some = found[..., ::SOME].clone()
                del found
                if expected is None and some.isfinite().all():
                    expected = some
                if expected is None or not agree(some, expected):
                    log.warning("way_disagrees", what=what, way=name)
                    continue
                seconds[name] = min(self._time(work) for _ in range(RUNS))
            except RuntimeError as error:
                fault = fault_of(error)
                ran_out = ran_out or fault is Fault.MEMORY
                if fault is Fault.LOST:
                    raise GpuLost(f"the GPU failed in a probe, {what} by {name}: {first_line(error)}") from error
                give_back(error)
                log.info("way_fails", what=what, way=name, reason=first_line(error))
        if not seconds:
            return None
        best = min(seconds, key=lambda name: seconds[name])
        log.info("way_chosen", what=what, way=best, milliseconds={n: round(1e3 * s, 3) for n, s in seconds.items()})
        if not ran_out:  # else another start may have the memory to try all of them
            mine[what] = best
            self._keep()
        return best

    def _time(self, work: Work) -> float:
        begun = clock()
        work()
        return clock() - begun

    def _here(self) -> str:
        gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
        return f"{gpu}, torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}"

    def _keep(self) -> None:
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self.path.parent, delete=False) as file:
                json.dump(self.kept, file, indent=1)
            Path(file.name).replace(self.path)
        except OSError as error:
            log.warning("choices_not_kept", reason=str(error))  # found anew at the next start


def kept_file() -> Path | None:
    """Return the file beside what torch compiles; None, and nothing is kept, if torch would choose that place itself:
    it is one that others know beforehand."""
    folder = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    return Path(folder) / "choices.json" if folder else None


def clock() -> float:
    """Return seconds, once the GPU is done."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def agree(found: torch.Tensor, expected: torch.Tensor) -> bool:
    apart = (found - expected).abs().max().item()
    return bool(apart <= AGREES * expected.abs().max().item())  # nor does anything agree that is no number


def choose_ways(pipeline: Any, clip: ClipSettings, probes: Probes, device: str) -> Choices:
    """Let `pipeline` run by the ways that are fastest for `clip`, settled; `pipeline` must have rendered a clip of two
    frames of 64×64, guided if `clip` is. Returns what was chosen."""
    chosen: Choices = {}
    sizes: dict[Any, tuple[int, int, int, int]] = {
        pipeline.unet: (samples_at_once(clip), clip.num_frames, clip.height // 8, clip.width // 8),
        pipeline.vae.decoder: (1, at_once(clip), clip.height, clip.width),
    }
    for model, size in sizes.items():
        layers = [layer for layer in convolutions(model) if layer.weight.shape[1] >= FEWEST]
        if not layers:
            continue
        # The picture is largest in the layer with the fewest channels.
        widest = min(layers, key=lambda layer: layer.weight.shape[1])
        what = "convolution of {} × {} × {} × {} × {}".format(size[0], widest.weight.shape[1], *size[1:])
        way = probes.fastest(what, convolving(widest, size, device))
        if way:
            use_way(model, way)
            chosen[what] = way
    return chosen | choose_kernels(pipeline.unet, clip, probes, device)


def convolutions(model: torch.nn.Module) -> list[TemporalConvolution]:
    return [module for module in model.modules() if isinstance(module, TemporalConvolution)]


def convolving(layer: TemporalConvolution, size: tuple[int, int, int, int], device: str) -> dict[str, Work]:
    """`size`: batch, frames, height, width. Products come first, which no library refuses. `layer` may lie elsewhere
    than on `device`, if its plan offloads it."""
    weight = layer.weight.to(device)
    bias = None if layer.bias is None else layer.bias.to(device)
    shape = (*size, weight.shape[1])
    seen = lazily(lambda: torch.randn(shape, dtype=weight.dtype, device=weight.device).movedim(-1, 1))
    order = ("products", "conv2d", "conv3d")
    return {name: lambda name=name: WAYS[name](seen(), weight, bias) for name in order}  # type: ignore[misc]  # bound as the loop goes


def choose_kernels(unet: torch.nn.Module, clip: ClipSettings, probes: Probes, device: str) -> Choices:
    chosen: Choices = {}
    seen = [(processor, processor.seen) for processor in pinned_in(unet) if processor.seen]
    # Of two frames: as many samples as the small clip had at once, by whichever plan it was made.
    samples = next((shape[0] // 2 for processor, shape in seen if not processor.along_frames), 1)
    for processor, small in seen:
        sequences, heads, tokens, channels = small
        shape = at_size((sequences // samples, heads, tokens, channels), processor.along_frames, clip)
        what = "attention of {} × {} × {} × {}".format(*shape)
        if what not in chosen:
            name = probes.fastest(what, attending(shape, next(unet.parameters()).dtype, device))
            if name is None:
                continue
            chosen[what] = name
        processor.first = chosen[what]
    return chosen


def samples_at_once(clip: ClipSettings) -> int:
    """Return how many samples of `clip`, settled, the UNet sees in one pass."""
    return 2 if is_guided(clip) and not plan_of(clip).apart else 1


def at_size(seen: Shape, along_frames: bool, clip: ClipSettings) -> Shape:
    """Return the shape that attention has for `clip`, settled, if one sample of two frames of 64×64 had `seen`."""
    sequences, heads, tokens, channels = seen
    sequences *= samples_at_once(clip)
    larger = clip.width * clip.height // (64 * 64)
    if along_frames:
        return sequences * larger, heads, clip.num_frames, channels
    return sequences * clip.num_frames // 2, heads, tokens * larger, channels


def attending(shape: Shape, dtype: torch.dtype, device: str) -> dict[str, Work]:
    """`shape` as it is after heads and tokens were transposed, as diffusers has it."""
    sequences, heads, tokens, channels = shape
    size = (3, sequences, tokens, heads, channels)
    given = lazily(lambda: torch.randn(size, dtype=dtype, device=device).transpose(2, 3))

    def attend(kernel: SDPBackend) -> torch.Tensor:
        with sdpa_kernel(kernel):
            return torch.nn.functional.scaled_dot_product_attention(*given())

    return {name: partial(attend, kernel) for name, kernel in KERNELS.items()}


def lazily(make: Work) -> Work:
    """Return `make` that is called once, at first use: a choice that was kept needs no example."""
    made: list[torch.Tensor] = []

    def get() -> torch.Tensor:
        if not made:
            made.append(make())
        return made[0]

    return get
