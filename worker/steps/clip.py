"""The step kind `clip`: a picture in, or the end of a video or of the part before; one MP4 and what shows it out."""

import time
from pathlib import Path
from typing import Any, cast

from PIL import Image

from core.errors import OutOfMemory
from core.plan.steps import RenderClip
from core.requests.clip import ClipSettings
from worker.attempt import Attempt
from worker.engines.base import Frames, Renderer
from worker.media.continuity import Colours, ContinuityState, append_part, as_png, from_png
from worker.media.mp4 import encode_mp4, first_frame_jpeg, spritesheet_jpeg, tile_indices
from worker.steps.base import Made, StepContext, StepHandler
from worker.steps.receipt import write_receipt
from worker.steps.store import fetch_made, store

# Shares of the whole, for the progress a user sees. Rendering and encoding divide the rest.
LOAD, STORE = 0.02, 0.02


class ClipStep(StepHandler):
    def __init__(self, context: StepContext) -> None:
        super().__init__(context)
        prompt = context.claim.task.params.get("prompt")
        self.params = RenderClip.model_validate(context.claim.step.params).with_prompt(prompt)
        self.versions: dict[str, str] = {}
        goes_on = self.params.begins_with != "picture"
        self.wanted = self.settings = self.params.settings.model_copy(update={"goes_on": goes_on})
        """As it is asked for, and as it was rendered."""
        self.before: ContinuityState | None = None
        """How the part before this one ended."""
        self.picture: Image.Image | None = None
        self.frames: Frames | None = None

    def prepare(self) -> None:
        params, attempt, host = self.params, self.attempt, self.context.engine_host
        attempt.shares = {"load": LOAD, "store": STORE}
        with attempt.phase("load"):
            self.renderer = cast(Renderer, host.get(host.find(params.engine)))
            attempt.shares |= {name: self.renderer.share * share for name, share in self.renderer.phases.items()}
            attempt.shares["encode_video"] = 1 - LOAD - STORE - self.renderer.share
            self.settings = self.renderer.with_memory_plan(self.wanted)
            if params.begins_with == "part":
                self.before = _end_of_part(self.context)
                self.picture = Image.fromarray(self.before.frames[0])
            else:
                self.picture = self.context.pictures.get(self.claim, params, attempt)

    def render(self) -> None:
        picture, self.picture = cast(Image.Image, self.picture), None
        self.frames, self.settings = _render(self.renderer, picture, self.wanted, self.settings, self.attempt)
        self.versions = self.renderer.versions()  # before the next step may want another engine

    def finish(self) -> Made:
        files, continuity = self._encode()
        self.frames = self.before = None  # storing may have to wait, and another clip's are there already
        with self.attempt.phase("store"):
            artifacts = store(files, self.context)
        video, crf, sha256 = artifacts[0], self.params.crf, self._input_sha256()
        receipt = write_receipt(self.renderer, self.versions, self.settings, crf, self.attempt, sha256, video)
        return Made(artifacts, receipt | continuity)

    def _input_sha256(self) -> str:
        """Return that of what the clip was made from; a part's is that of the part before."""
        role = self.params.input_role
        return self.claim.inputs[role].sha256 if role else str(self.claim.needs[0].receipt["input_sha256"])

    def _encode(self) -> tuple[list[Path], dict[str, Any]]:
        """Return the files that the step makes, the video first, and what its receipt says for the part that goes on
        from it."""
        params, frames, after, folder = self.params, cast(Frames, self.frames), None, self.context.folder
        with self.attempt.phase("encode_video"):
            if params.adds is not None:
                frames, after = append_part(frames, params.adds, self.before, params.continuity)
            if params.drop_first:
                frames = frames[1:]
            encode_mp4(frames, self.settings.fps, params.crf, folder / "video.mp4", self.attempt.advance)
            files = {}
            if after:
                files["continuity.png"] = as_png(after.frames)
            if params.shows:
                files["thumbnail.jpg"] = first_frame_jpeg(frames)
                files["spritesheet.jpg"] = spritesheet_jpeg([frames[index] for index in tile_indices(len(frames))])
            for name, data in files.items():
                (folder / name).write_bytes(data)
        paths = [folder / name for name in ("video.mp4", *files)]
        return paths, {"colours": after.colours._asdict()} if after else {}


def _end_of_part(context: StepContext) -> ContinuityState:
    """Return how the part before this one ended, in a long clip."""
    (made,) = context.claim.needs
    path = fetch_made(made, "continuity", context.folder / "before.png", context)
    return ContinuityState(from_png(path.read_bytes()), Colours(**made.receipt["colours"]))


def _render(
    renderer: Renderer, picture: Image.Image, wanted: ClipSettings, planned: ClipSettings, attempt: Attempt
) -> tuple[Frames, ClipSettings]:
    """Return the frames, and the settings that they were rendered by: `planned`, or if memory ran out, a plan that
    needs less."""
    while True:
        try:
            return _timed(renderer, picture, planned, attempt), planned
        except OutOfMemory:
            smaller = renderer.with_smaller_plan(wanted, planned, attempt.phase_name)
            if smaller is None:
                raise
        same = way_of(smaller) == way_of(planned)
        made = "so all the same, once engines that stood idle had left" if same else way_of(smaller)
        attempt.warnings.append(f"the GPU's memory ran out {way_of(planned)}; this was made {made}")
        planned = smaller


def way_of(settings: ClipSettings) -> str:
    return f"with the memory plan {settings.memory_plan} and decode_chunk_size {settings.decode_chunk_size}"


def _timed(renderer: Renderer, picture: Image.Image, settings: ClipSettings, attempt: Attempt) -> Frames:
    begun = time.perf_counter()
    try:
        return renderer.render(picture, settings, attempt)
    finally:
        attempt.engine_seconds += time.perf_counter() - begun
