"""The step kind `smooth`: the clip of an earlier step again, with more frames a second."""

from contextlib import closing
from typing import TYPE_CHECKING, cast

from core.plan.steps import SmoothClip
from core.scratch import scratch_folder
from core.storage import Storage
from core.task import Claim
from worker.attempt import Attempt
from worker.engines.host import EngineHost
from worker.media.mp4 import encode_each, encoder
from worker.media.smooth import receipt as flow_receipt
from worker.media.smooth import smoothed
from worker.media.video import stored_frames
from worker.pictures import Pictures
from worker.receipt import extend_receipt
from worker.steps.store import files_of, read_made, store
from worker.steps.verb import Work

if TYPE_CHECKING:
    from worker.rife.rife import Rife


def smooth_clip(claim: Claim, attempt: Attempt, storage: Storage, engine_host: EngineHost, pictures: Pictures) -> Work:
    """Its receipt is that of the clip, and how it was smoothed."""
    motion = engine_host.motion
    rife = cast("Rife", engine_host.get(motion)) if motion else None
    if not rife:
        yield  # at once: no engine is needed for any of it
    params, (made,) = SmoothClip.model_validate(claim.step.params), claim.needs
    attempt.shares = {"load": 0.02, "smooth": 0.96, "store": 0.02}
    with attempt.phase("load"):
        rendered = read_made(made, "video", attempt, storage)
    with attempt.phase("smooth"), scratch_folder("smooth") as folder:
        before, after = folder / "clip.mp4", folder / "video.mp4"
        before.write_bytes(rendered)
        find_motion = rife.motion if rife else None
        with closing(smoothed(stored_frames(before), params.fps, params.smooth_fps, find_motion)) as frames:
            if params.drop_first:
                next(frames)
            size, count = (params.width, params.height), params.num_frames
            encode_each(frames, size, params.smooth_fps, params.crf, after, lambda done: attempt.advance(done, count))
        files = files_of(after, count)
    if rife:
        yield  # not before: the GPU has no memory, nor time, for the next clip beside it
    with attempt.phase("store"):
        artifacts = store(files, claim, attempt, storage)
    smoothing = rife.receipt() if rife else flow_receipt()
    receipt = extend_receipt(
        made, claim, attempt, files["video.mp4"], {"smooth_fps": params.smooth_fps, "quality": params.crf}
    )
    return artifacts, receipt | {"encoder": encoder(), "smoothing": smoothing}
