"""The parts of a clip of more frames than its engine can make at once: each goes on from the one before."""

from core.engines import SEED
from core.spec import Clip, Part

OVERLAP = 5
"""Frames that two parts both make, the first of them being what the second goes on from: there they are blended."""


def parts(clip: Clip, frames_at_once: int | None) -> list[Clip]:
    """The clip itself where one part will do. Every part makes `frames_at_once`, the shape that is compiled; the
    last one gives as many of them as are wanted."""
    if frames_at_once is None or clip.num_frames <= frames_at_once:
        return [clip]
    adds = frames_at_once - OVERLAP
    count = 1 + -(-(clip.num_frames - frames_at_once) // adds)
    lengths = [adds] * (count - 1) + [clip.num_frames - adds * (count - 1)]
    return [
        clip.model_copy(
            update={
                "num_frames": frames_at_once,
                "seed": (clip.seed + number) % int(SEED.high + 1),  # else what moved would move the same way again
                "part": Part(number=number, of=count, num_frames=length),
            }
        )
        for number, length in enumerate(lengths)
    ]
