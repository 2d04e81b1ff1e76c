"""Pictures straight from latents, without the decoder: small, coarse in colour, and good enough to see what emerges."""

import time
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from worker.attempt import Attempt
from worker.media.webp import small_webp

if TYPE_CHECKING:
    import torch

Floats = NDArray[np.floating[Any]]

# A row for each channel of Stable Diffusion 1.5's latents, which SVD shares, to red, green and blue from -1 to 1: the
# fit of InvokeAI (invokeai/app/util/step_callback.py, Apache-2.0).
TO_RGB = np.array(
    [
        [0.3444, 0.1385, 0.0670],
        [0.1247, 0.4027, 0.1494],
        [-0.3192, 0.2513, 0.2103],
        [-0.1307, -0.1874, -0.7445],
    ],
    np.float32,
)


def show_emerging(stepped: Any, done: "torch.cuda.Event | None", attempt: Attempt, fps: int) -> None:
    """What the scheduler took for the whole clip in the step that gave `stepped`; on a GPU there once `done` passed.

    Whoever denoises pays for a reference; all the rest is done where the picture is wanted, and waits for the device
    there.
    """
    predicted = getattr(stepped, "pred_original_sample", None)  # not every scheduler tells
    if predicted is not None:
        attempt.offer_preview(partial(picture, predicted, done, fps))


def picture(predicted: "torch.Tensor", done: "torch.cuda.Event | None", fps: int) -> bytes:
    return small_webp(to_rgb(on_cpu(predicted, done)), fps)


def on_cpu(latents: "torch.Tensor", done: "torch.cuda.Event | None") -> Floats:
    """Of the one clip that there is: (n, 4, height, width)."""
    if done is not None:
        import torch

        while not done.query():  # to synchronize would keep a core busy
            time.sleep(0.01)
        with torch.cuda.stream(torch.cuda.Stream(latents.device)):  # beside what the device does for the clip
            latents = latents.cpu()
    return latents[0].numpy().astype(np.float32)


def to_rgb(latents: Floats) -> NDArray[np.uint8]:
    """(n, 4, height, width) as frames (n, height, width, 3)."""
    rgb = latents.transpose(0, 2, 3, 1) @ TO_RGB
    frames: NDArray[np.uint8] = (255 * (rgb / 2 + 0.5).clip(0, 1)).round().astype(np.uint8)
    return frames
