"""The step kind `clip`: a picture in, or the end of a video or of the part before; one MP4 and what shows it out."""

import time
from typing import cast

from PIL import Image

from core.errors import OutOfMemory
from core.plan.steps import RenderClip
from core.scratch import scratch_folder
from core.spec import ClipSettings
from core.storage import Storage
from core.task import Claim
from worker.attempt import Attempt
from worker.engines.base import Frames, Renderer
from worker.engines.host import EngineHost
from worker.media.continuity import Colours, ContinuityState, append_part, as_png, from_png
from worker.media.mp4 import encode_mp4, first_frame_jpeg, spritesheet_jpeg, tile_indices
from worker.pictures import Pictures
from worker.receipt import write_receipt
from worker.steps.store import read_made, store
from worker.steps.verb import Work

# Shares of the whole, for the progress a user sees. Rendering and encoding divide the rest.
LOAD, STORE = 0.02, 0.02


def make_clip(claim: Claim, attempt: Attempt, storage: Storage, engine_host: EngineHost, pictures: Pictures) -> Work:
    params = RenderClip.model_validate(claim.step.params)
    attempt.shares = {"load": LOAD, "store": STORE}
    with attempt.phase("load"):
        renderer = cast(Renderer, engine_host.get(engine_host.find(params.engine)))
        attempt.shares |= {name: renderer.share * share for name, share in renderer.phases.items()}
        attempt.shares["encode_video"] = 1 - LOAD - STORE - renderer.share
        planned = renderer.with_memory_plan(params.settings)
        before = _end_of_part(claim, attempt, storage) if params.begins_with == "part" else None
        picture = Image.fromarray(before.frames[0]) if before else pictures.get(claim, params, attempt)
    frames, settings = _render(renderer, picture, params.settings, planned, attempt)
    versions = renderer.versions()  # before the next step may want another engine
    del picture
    yield
    with attempt.phase("encode_video"), scratch_folder("clip") as folder:
        after = None
        if params.adds is not None:
            frames, after = append_part(frames, params.adds, before, params.continuity)
        if params.drop_first:
            frames = frames[1:]
        path = folder / "video.mp4"
        encode_mp4(frames, settings.fps, params.crf, path, attempt.advance)
        files = {"video.mp4": path.read_bytes()}
        if after:
            files["continuity.png"] = as_png(after.frames)
        if params.shows:
            files["thumbnail.jpg"] = first_frame_jpeg(frames)
            files["spritesheet.jpg"] = spritesheet_jpeg([frames[index] for index in tile_indices(len(frames))])
    colours = {"colours": after.colours._asdict()} if after else {}
    del frames, before, after  # storing may have to wait, and another clip's are there already
    with attempt.phase("store"):
        artifacts = store(files, claim, attempt, storage)
    (source,) = claim.inputs.values()
    receipt = write_receipt(renderer, versions, settings, params.crf, attempt, source.sha256, files["video.mp4"])
    return artifacts, receipt | colours


def _end_of_part(claim: Claim, attempt: Attempt, storage: Storage) -> ContinuityState:
    """Return how the part before this one ended, in a long clip."""
    (made,) = claim.needs
    colours = Colours(**made.receipt["colours"])
    return ContinuityState(from_png(read_made(made, "continuity", attempt, storage)), colours)


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
