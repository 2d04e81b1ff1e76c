"""The ways from a picture to an MP4 that `scripts/bench svd` compares, each with models of its own."""

import copy
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import numpy as np
import torch
from diffusers.utils import export_to_video
from numpy.typing import NDArray
from PIL import Image

from core.config.settings import Settings
from core.engines.base import Approximation
from core.engines.known import find_engine
from core.requests.clip import Clip
from harness.random_svd import Case
from worker.attempt import Attempt
from worker.engines.base import create_engine
from worker.engines.svd.consistency import ConsistencyScheduler
from worker.engines.svd.speedups import COMPILED, SpeedUp
from worker.engines.svd.svd import Svd
from worker.media.mp4 import encode_mp4, first_frame_jpeg, spritesheet_jpeg, tile_indices

Figures = dict[str, float]
"""Seconds of each part: encode, denoise, decode, finalize (from what the engine gives to the MP4), whole."""

FPS, CRF = 7, 18


def now() -> float:
    """Seconds, once the device has done all that was asked of it."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def figures(encode: float, denoise: float, decode: float, finalize: float) -> Figures:
    parts = {"encode": encode, "denoise": denoise, "decode": decode, "finalize": finalize}
    return parts | {"whole": sum(parts.values())}


class NotMade(Exception):
    """A way that this machine cannot go."""


class Way:
    """Renders one clip again and again."""

    frames: NDArray[np.uint8]
    """Of the newest clip."""

    def __init__(self, pipeline: Any, copies: bool = True) -> None:
        """Without `copies` of `pipeline` itself, which nobody else may use then."""
        self.pipeline = copy.copy(pipeline)
        if not copies:
            return
        for name in ("unet", "vae", "image_encoder", "scheduler"):
            setattr(self.pipeline, name, copy.deepcopy(getattr(pipeline, name)))

    @property
    def weights_bytes(self) -> int:
        models = (self.pipeline.unet, self.pipeline.vae, self.pipeline.image_encoder)
        return sum(weights.nbytes for model in models for weights in model.parameters())


class Diffusers(Way):
    """As it comes, with its own defaults, to the pictures that it returns; then its own export_to_video."""

    def __init__(self, pipeline: Any, *, compiled: bool = False, exports: bool = True, copies: bool = True) -> None:
        """Without `exports` up to the pictures, for which imageio is not needed."""
        super().__init__(pipeline, copies)
        self.exports = exports
        if compiled:  # as its documentation says
            torch.compiler.set_stance("default")
            self.pipeline.unet.compile(fullgraph=True)
            self.pipeline.vae.decoder.compile(fullgraph=True)

    def time(self, picture: Image.Image, case: Case) -> Figures:
        pipeline = self.pipeline
        with marked(pipeline.scheduler, "set_timesteps") as denoise, marked(pipeline, "decode_latents") as decode:
            begun = now()
            pictures = pipeline(picture, generator=torch.manual_seed(0), **asdict(case)).frames[0]
        if self.exports:
            with tempfile.TemporaryDirectory() as folder:
                export_to_video(pictures, str(Path(folder) / "clip.mp4"), fps=FPS)
        ended = now()
        self.frames = np.stack([np.asarray(each) for each in pictures])
        (denoised, _), (decoded, to_pictures) = denoise, decode
        return figures(denoised - begun, decoded - denoised, to_pictures - decoded, ended - to_pictures)


@contextmanager
def marked(owner: Any, method: str) -> Iterator[list[float]]:
    """When `method` began and when it ended, once it has been called."""
    marks: list[float] = []
    work = getattr(owner, method)

    def works(*given: Any, **named: Any) -> Any:
        marks.append(now())
        result = work(*given, **named)
        marks.append(now())
        return result

    with patch.object(owner, method, works):
        yield marks


class Kinora(Way):
    """The engine with some of its changes, then what the worker does to finalize it."""

    name = "svd-xt"

    def __init__(
        self,
        pipeline: Any,
        case: Case,
        speed_ups: tuple[SpeedUp, ...] | None = None,
        approximation: Approximation | None = None,
        copies: bool = True,
    ) -> None:
        super().__init__(pipeline, copies)
        self.engine = engine_for(self.name, case, approximation)
        begun = now()
        self.engine.hold(self.pipeline, speed_ups)
        self.hold_seconds = now() - begun
        if not self.engine.compiled and any(change in COMPILED for change in speed_ups or ()):
            raise NotMade(f"nothing was compiled: {self.engine.not_compiled or 'it fits by no plan that is'}")

    def time(self, picture: Image.Image, case: Case) -> Figures:
        attempt = Attempt(self.engine.phases)
        self.frames = self.engine.render(picture, clip_of(self.engine, case), attempt)
        begun = now()
        with tempfile.TemporaryDirectory() as folder:
            encode_mp4(self.frames, FPS, CRF, Path(folder) / "clip.mp4")
        first_frame_jpeg(self.frames)
        spritesheet_jpeg([self.frames[index] for index in tile_indices(len(self.frames))])
        finalize, seconds = now() - begun, attempt.seconds
        made = figures(seconds["encode_image"], seconds["denoise"], seconds["decode"], finalize)
        return made | {"busy": made["whole"] - finalize}


class Turbo(Kinora):
    """Another model of the same layers, as a worker has it: 4 steps of one sample, whatever the case says."""

    name = "turbo"

    def __init__(
        self, pipeline: Any, case: Case, speed_ups: tuple[SpeedUp, ...] | None = None, copies: bool = True
    ) -> None:
        pipeline = copy.copy(pipeline)
        pipeline.scheduler = ConsistencyScheduler()
        super().__init__(pipeline, in_four_steps(case), speed_ups, copies=copies)

    def time(self, picture: Image.Image, case: Case) -> Figures:
        return super().time(picture, in_four_steps(case))


def in_four_steps(case: Case) -> Case:
    return replace(case, num_inference_steps=4)


def engine_for(name: str, case: Case, approximation: Approximation | None = None) -> Svd:
    """Whose default clip is the case: that is the one for which it compiles."""
    settings = Settings(_env_file=None)
    entry = find_engine(name, settings)
    entry = replace(entry, defaults=entry.defaults | asdict(case), approximation=approximation)
    return cast(Svd, create_engine(entry, settings))


def clip_of(engine: Svd, case: Case) -> Clip:
    return Clip(engine=engine.engine.name, seed=0, **engine.engine.defaults | asdict(case))
