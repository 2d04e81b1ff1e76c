"""The verb `clip`: one picture in, or the video to continue; one MP4 and what shows it out."""

import time
from typing import cast

from PIL import Image

from core.errors import OutOfMemory
from core.scratch import scratch_folder
from core.spec import Clip
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

# x264's crf of a clip that is to be smoothed, if it should not be better still: 53 dB from what was rendered, and 2 MB
# at 1024×576.
PASSED_ON = 8

# Shares of the whole, for the progress a user sees. Rendering and encoding divide the rest.
LOAD, STORE = 0.02, 0.02


def make_clip(claim: Claim, attempt: Attempt, storage: Storage, engine_host: EngineHost, pictures: Pictures) -> Work:
    clip = Clip.model_validate(claim.step.params)
    attempt.shares = {"load": LOAD, "store": STORE}
    with attempt.phase("load"):
        renderer = cast(Renderer, engine_host.get(engine_host.find(clip.engine)))
        attempt.shares |= {name: renderer.share * share for name, share in renderer.phases.items()}
        attempt.shares["encode_video"] = 1 - LOAD - STORE - renderer.share
        settled = renderer.with_memory_plan(clip)
        before = _part_before(claim, attempt, storage)
        picture = Image.fromarray(before.frames[0]) if before else pictures.get(claim.task, clip, attempt)
    frames, clip = _render(renderer, picture, clip, settled, attempt)
    versions = renderer.versions()  # before the next step may want another engine
    del picture
    yield
    with attempt.phase("encode_video"), scratch_folder("clip") as folder:
        after = None
        if clip.part:
            frames, after = append_part(frames, clip.part, before)
        if clip.continues and not clip.smooth_fps and not before:
            frames = frames[1:]  # it is the last one of the video that goes on
        quality = min(clip.quality, PASSED_ON) if clip.smooth_fps else clip.quality
        path = folder / "video.mp4"
        encode_mp4(frames, clip.fps, quality, path, attempt.advance)
        files = {"video.mp4": path.read_bytes()}
        if after:
            files["after.png"] = as_png(after.frames)
        if not (clip.part or clip.smooth_fps or clip.continues):  # else a later step shows the whole
            files["thumbnail.jpg"] = first_frame_jpeg(frames)
            files["spritesheet.jpg"] = spritesheet_jpeg([frames[index] for index in tile_indices(len(frames))])
    colours = {"colours": after.colours._asdict()} if after else {}
    del frames, before, after  # storing may have to wait, and another clip's are there already
    with attempt.phase("store"):
        artifacts = store(files, claim, attempt, storage)
    receipt = write_receipt(renderer, versions, clip, attempt, claim.task.input_sha256, files["video.mp4"])
    return artifacts, receipt | colours


def _part_before(claim: Claim, attempt: Attempt, storage: Storage) -> ContinuityState | None:
    """How the part before this one ended, in a long clip."""
    if not claim.needs:
        return None
    (made,) = claim.needs
    colours = Colours(**(made.receipt or {})["colours"])
    return ContinuityState(from_png(read_made(made, "after", attempt, storage)), colours)


def _render(
    renderer: Renderer, picture: Image.Image, clip: Clip, settled: Clip, attempt: Attempt
) -> tuple[Frames, Clip]:
    """The frames, and the clip as it was rendered: as `settled`, or if memory ran out in a way that needs less."""
    while True:
        try:
            return _timed(renderer, picture, settled, attempt), settled
        except OutOfMemory:
            smaller = renderer.with_smaller_plan(clip, settled, attempt.phase_name)
            if smaller is None:
                raise
        same = way_of(smaller) == way_of(settled)
        made = "so all the same, once engines that stood idle had left" if same else way_of(smaller)
        attempt.warnings.append(f"the GPU's memory ran out {way_of(settled)}; this was made {made}")
        settled = smaller


def way_of(clip: Clip) -> str:
    return f"with the memory plan {clip.memory_plan} and decode_chunk_size {clip.decode_chunk_size}"


def _timed(renderer: Renderer, picture: Image.Image, clip: Clip, attempt: Attempt) -> Frames:
    begun = time.perf_counter()
    try:
        return renderer.render(picture, clip, attempt)
    finally:
        attempt.engine_seconds += time.perf_counter() - begun
