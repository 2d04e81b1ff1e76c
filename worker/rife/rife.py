"""Frames in between by RIFE, in the place of optical flow: worker/media/smooth.py has all that is around them."""

import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from core.errors import GpuLost, OutOfMemory
from worker.media.smooth import Bytes, Motion, versions
from worker.media.yuv import as_rgb
from worker.rife.ifnet import MULTIPLE
from worker.rife.weights import read_ifnet


class Rife:
    """Its net, loaded; several threads may ask it."""

    def __init__(self, weights: Path, device: str) -> None:
        """Raises EngineUnavailable, GpuLost."""
        self.net, self.sha256 = read_ifnet(weights, device)
        self.device = device
        self._one_at_a_time = threading.Lock()  # on a GPU for its memory, on the CPU since torch takes all cores

    def motion(self, first: Bytes, second: Bytes) -> "RifeMotion":
        return RifeMotion(first, second, self)

    def between(self, first: Bytes, second: Bytes, moment: float) -> Bytes:
        """All three are sRGB, (height, width, 3). Raises OutOfMemory, GpuLost."""
        height, width = first.shape[:2]
        with self._one_at_a_time, told_apart(width, height), torch.inference_mode():
            found = self.net(self._tensor(first), self._tensor(second), moment)[0, :, :height, :width]
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
            libraries |= {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}
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


@contextmanager
def told_apart(width: int, height: int) -> Iterator[None]:
    """Memory that ran out, after which the next clip is right, from a GPU that is lost."""
    try:
        yield
    except torch.OutOfMemoryError as exc:
        traceback.clear_frames(exc.__traceback__)  # or its tensors would live for as long as the error is kept
        torch.cuda.empty_cache()
        needed = f"frames of {width}×{height} need more GPU memory than there is to smooth them"
        raise OutOfMemory(f"{needed}; a smaller size would need less") from exc
    except torch.AcceleratorError as exc:  # sticky: every later call on this device fails with it too
        raise GpuLost(f"the GPU failed while frames were worked out by RIFE: {exc}") from exc
