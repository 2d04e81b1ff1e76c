"""The step kind `smooth`: the clip of an earlier step again, with more frames a second."""

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, cast

from core.plan.steps import SmoothClip
from worker.media.mp4 import encode_each, encoder
from worker.media.smooth import receipt as flow_receipt
from worker.media.smooth import smoothed
from worker.media.video import stored_frames
from worker.steps.base import Made, StepContext, StepHandler
from worker.steps.receipt import extend_receipt
from worker.steps.store import fetch_made, store, thumbnails

if TYPE_CHECKING:
    from worker.engines.rife.rife import Rife
    from worker.media.smooth import FindMotion


class SmoothStep(StepHandler):
    """Its receipt is that of the clip, and how it was smoothed."""

    def __init__(self, context: StepContext) -> None:
        super().__init__(context)
        self.params = SmoothClip.model_validate(context.claim.step.params)
        self.rife: Rife | None = None
        self.files: list[Path] = []
        context.attempt.shares = {"load": 0.02, "smooth": 0.96, "store": 0.02}

    def prepare(self) -> None:
        host = self.context.engine_host
        self.rife = cast("Rife", host.get(host.motion)) if host.motion else None

    def render(self) -> None:
        if self.rife:  # all of it: the GPU has no memory, nor time, for the next clip beside it
            self.files = self._smooth(self.rife.motion)

    def finish(self) -> Made:
        files = self.files or self._smooth(None)
        with self.attempt.phase("store"):
            artifacts = store(files, self.context)
        said = {"smooth_fps": self.params.smooth_fps, "quality": self.params.crf}
        receipt = extend_receipt(self.claim.needs[0], self.claim, self.attempt, artifacts[0], said)
        smoothing = self.rife.receipt() if self.rife else flow_receipt()
        return Made(artifacts, receipt | {"encoder": encoder(), "smoothing": smoothing})

    def _smooth(self, find_motion: "FindMotion | None") -> list[Path]:
        """Return the smooth video, and what shows it."""
        params, attempt, (made,) = self.params, self.attempt, self.claim.needs
        before, after = self.context.folder / "clip.mp4", self.context.folder / "video.mp4"
        with attempt.phase("load"):
            fetch_made(made, "video", before, self.context)
        with attempt.phase("smooth"):
            with closing(smoothed(stored_frames(before), params.fps, params.smooth_fps, find_motion)) as frames:
                if params.drop_first:
                    next(frames)
                size, count = (params.width, params.height), params.num_frames
                encode_each(
                    frames, count, size, params.smooth_fps, params.crf, after, lambda done: attempt.advance(done, count)
                )
            return [after, *thumbnails(after, count)]
