"""The verb `join`: the video that a task continues, and the clip that continues it, into one MP4."""

import hashlib
from typing import Any

from core.errors import ArtifactNotFound, InputMissing
from core.scratch import scratch_folder
from core.spec import Clip
from core.storage import Storage
from core.task import Claim
from worker.attempt import Attempt
from worker.media.mp4 import first_frame_jpeg, spritesheet_jpeg, tile_indices
from worker.media.video import frames_of, join_mp4
from worker.pictures import Pictures, read_input
from worker.renderers import Renderers
from worker.steps.store import store
from worker.steps.verb import Work


def join_clips(claim: Claim, attempt: Attempt, storage: Storage, renderers: Renderers, pictures: Pictures) -> Work:
    """Its receipt is that of the clip, and what it is part of."""
    yield  # at once: no engine is needed for any of it
    clip, (made,) = Clip.model_validate(claim.step.params), claim.needs
    attempt.shares = {"load": 0.1, "join": 0.8, "store": 0.1}
    with attempt.phase("load"):
        before = read_input(claim.task, attempt, storage)
        after = _read_clip(made.artifacts["video"], attempt, storage)
    with attempt.phase("join"), scratch_folder("join") as folder:
        parts, joined = [folder / "before.mp4", folder / "after.mp4"], folder / "video.mp4"
        for part, data in zip(parts, (before, after), strict=True):
            part.write_bytes(data)
        count = join_mp4(parts, joined, clip.quality, attempt.check)
        tiles = list(frames_of(joined, tile_indices(count)))
        video = joined.read_bytes()
    with attempt.phase("store"):
        shown = {"thumbnail.jpg": first_frame_jpeg(tiles), "spritesheet.jpg": spritesheet_jpeg(tiles)}
        artifacts = store({"video.mp4": video, **shown}, claim, attempt, storage)
    return artifacts, _receipt(made.receipt or {}, claim, attempt, video)


def _read_clip(key: str, attempt: Attempt, storage: Storage) -> bytes:
    try:
        return attempt.keep_trying(lambda: storage.read(key))
    except ArtifactNotFound as error:
        raise InputMissing("the clip to join is no longer in the storage") from error


def _receipt(of_clip: dict[str, Any], claim: Claim, attempt: Attempt, video: bytes) -> dict[str, Any]:
    seconds = {f"join_{name}": round(spent, 4) for name, spent in attempt.seconds.items()}
    return of_clip | {
        "clip_sha256": of_clip.get("output_sha256"),
        "output_sha256": hashlib.sha256(video).hexdigest(),
        "output_bytes": len(video),
        "seconds": of_clip.get("seconds", {}) | seconds,
    }
