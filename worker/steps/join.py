"""The verb `join`: the video that a task continues, and the clip that continues it, into one MP4."""

from core.scratch import scratch_folder
from core.spec import Clip
from core.storage import Storage
from core.task import Claim
from worker.attempt import Attempt
from worker.media.video import join_mp4
from worker.pictures import Pictures, read_input
from worker.receipt import carried_on
from worker.renderers import Renderers
from worker.steps.store import files_of, read_clip, store
from worker.steps.verb import Work


def join_clips(claim: Claim, attempt: Attempt, storage: Storage, renderers: Renderers, pictures: Pictures) -> Work:
    """Its receipt is that of the clip, and what it is part of."""
    yield  # at once: no engine is needed for any of it
    clip, (made,) = Clip.model_validate(claim.step.params), claim.needs
    attempt.shares = {"load": 0.1, "join": 0.8, "store": 0.1}
    with attempt.phase("load"):
        before = read_input(claim.task, attempt, storage)
        after = read_clip(made, attempt, storage)
    with attempt.phase("join"), scratch_folder("join") as folder:
        parts, joined = [folder / "before.mp4", folder / "after.mp4"], folder / "video.mp4"
        for part, data in zip(parts, (before, after), strict=True):
            part.write_bytes(data)
        files = files_of(joined, join_mp4(parts, joined, clip.quality, attempt.check))
    with attempt.phase("store"):
        artifacts = store(files, claim, attempt, storage)
    return artifacts, carried_on(made, claim, attempt, files["video.mp4"])
