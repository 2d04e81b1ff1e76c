"""The parts of a clip of more frames than its engine can make at once: each goes on from the one before."""

from dataclasses import dataclass

from core.config.settings import Settings
from core.engines.base import SEED, Engine
from core.requests.clip import Clip, ClipSettings

OVERLAP = 5
"""Frames that two parts both make, the first of them being what the second goes on from: there they are crossfaded."""


@dataclass(frozen=True)
class Part:
    settings: ClipSettings
    adds: int
    """Frames that it adds to the video, at most `settings.num_frames`."""


def parts(clip: Clip, engine: Engine, settings: Settings) -> list[Part]:
    """Return the clip as one part if the engine can make it at once, else as several.

    Every part makes as many frames as a clip that nothing is said of, which is the shape that is compiled; of the last
    one as many are used as are wanted.
    """
    if engine.frames_at_once is None or clip.num_frames <= engine.frames_at_once:
        return [Part(clip.settings, clip.num_frames)]
    usual = settings.video_frames or engine.defaults["num_frames"]
    frames_at_once = usual if OVERLAP < usual <= engine.frames_at_once else engine.frames_at_once
    adds = frames_at_once - OVERLAP
    count = 1 + -(-(clip.num_frames - frames_at_once) // adds)
    lengths = [adds] * (count - 1) + [clip.num_frames - adds * (count - 1)]
    seed = clip.seed
    found = []
    for length in lengths:
        found.append(Part(clip.settings.model_copy(update={"num_frames": frames_at_once, "seed": seed}), length))
        seed = (seed + 1) % int(SEED.high + 1)  # else what moved would move the same way again
    return found
