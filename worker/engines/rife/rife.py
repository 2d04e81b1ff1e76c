"""Frames in between by RIFE, in the place of optical flow: worker/media/smooth.py has all that is around them."""

import threading
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from core.config.settings import Settings
from core.engines.base import Engine
from worker.engines.base import LoadedModel
from worker.engines.cuda import choose_device, gpu_versions
from worker.engines.gpu_faults import told_apart
from worker.engines.gpu_memory import GpuMemory
from worker.engines.rife.ifnet import MULTIPLE, IFNet
from worker.engines.rife.weights import read_ifnet
from worker.media.smooth import Bytes, Motion, versions
from worker.media.yuv import as_rgb


class Rife(LoadedModel):
    """Its net; several threads may ask it."""

    net: IFNet | None = None
    sha256: str
    """Of the file with its weights."""

    def __init__(self, engine: Engine, settings: Settings, gpu_memory: GpuMemory | None = None) -> None:
        super().__init__(engine, settings, gpu_memory)
        self._one_at_a_time = threading.Lock()  # on a GPU for its memory, on the CPU since torch takes all cores

    def load(self) -> None:
        self.device = choose_device(self.gpu_memory.found_gpu)
        self.net, self.sha256 = read_ifnet(Path(str(self.engine.model)), self.device)

    def unload(self) -> None:
        self.net = None

    @property
    def resident_bytes(self) -> int:
        net = self.net  # another thread may ask while it is unloaded
        return sum(weights.nbytes for weights in net.parameters() if weights.is_cuda) if net else 0

    def motion(self, first: Bytes, second: Bytes) -> "RifeMotion":
        return RifeMotion(first, second, self)

    def between(self, first: Bytes, second: Bytes, moment: float) -> Bytes:
        """All three are sRGB, (height, width, 3). Raises OutOfMemory, GpuLost, EngineFailed."""
        height, width = first.shape[:2]
        needed = f"frames of {width}×{height} need more GPU memory than there is to smooth them"
        known = told_apart(lambda: "RIFE", lambda: f"{needed}; a smaller size would need less")
        with self._one_at_a_time, known, torch.inference_mode():
            found = cast(IFNet, self.net)(self._tensor(first), self._tensor(second), moment)[0, :, :height, :width]
            found = (found * 255).round().to(torch.uint8)
            return np.ascontiguousarray(found.permute(1, 2, 0).cpu().numpy())

    def _tensor(self, frame: Bytes) -> Tensor:
        """Black to the right and below, up to sides that the net can take."""
        height, width = frame.shape[:2]
        planes = torch.from_numpy(frame).to(self.device).permute(2, 0, 1)[None] / 255
        return F.pad(planes, (0, -width % MULTIPLE, 0, -height % MULTIPLE))

    def receipt(self) -> dict[str, Any]:
        receipt: dict[str, Any] = {"method": "RIFE 4.6", "weights_sha256": self.sha256}
        libraries = versions() | {"torch": str(torch.__version__)}
        if self.device == "cuda":
            libraries |= gpu_versions()
        else:
            receipt["threads"] = torch.get_num_threads()  # by whose number the rounding may differ
        return receipt | {"libraries": libraries}


class RifeMotion(Motion):
    """A cut is found as it is without RIFE, which would mix two scenes."""

    def __init__(self, first: Bytes, second: Bytes, rife: Rife) -> None:
        super().__init__(first, second)
        self.rife = rife
        self.colours = as_rgb(first), as_rgb(second)

    def drawn(self, moment: float) -> Bytes:
        return self.rife.between(*self.colours, moment)
