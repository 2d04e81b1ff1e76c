"""The parts of a clip of more frames than its engine can make at once: each goes on from the one before."""

from core.config import Settings
from core.engines import SEED, Engine
from core.spec import Clip, Part

OVERLAP = 5
"""Frames that two parts both make, the first of them being what the second goes on from: there they are blended."""


def parts(clip: Clip, engine: Engine, settings: Settings) -> list[Clip]:
    """The clip itself if one part will do. Every part makes as many frames as a clip that nothing is said of, which
    is the shape that is compiled; the last one gives as many of them as are wanted."""
    if engine.frames_at_once is None or clip.num_frames <= engine.frames_at_once:
        return [clip]
    usual = settings.video_frames or engine.defaults["num_frames"]
    frames_at_once = usual if OVERLAP < usual <= engine.frames_at_once else engine.frames_at_once
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
