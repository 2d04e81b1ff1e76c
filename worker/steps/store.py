"""What a step made, into storage, and out of it for the next one."""

import hashlib
from functools import partial
from pathlib import Path, PurePath

from core.errors import ArtifactNotFound, InputMissing
from core.storage import Storage, artifact_key
from core.task import Artifact, Claim, MadeStep
from worker.attempt import Attempt
from worker.media.mp4 import first_frame_jpeg, spritesheet_jpeg, tile_indices
from worker.media.video import frames_of


def store(files: dict[str, bytes], claim: Claim, attempt: Attempt, storage: Storage) -> list[Artifact]:
    """Store each file, and return it as an artifact whose name is the file's without the ending. Raises Stopped."""
    attempt.stored_bytes += sum(map(len, files.values()))
    artifacts = []
    for name, data in files.items():
        key = artifact_key(claim.task.task_id, claim.step.step_id, claim.step.attempt, name)
        attempt.keep_trying(partial(storage.put, key, data))
        artifacts.append(Artifact(PurePath(name).stem, key, len(data), hashlib.sha256(data).hexdigest()))
    return artifacts


def files_of(video: Path, count: int) -> dict[str, bytes]:
    """A video of `count` frames, and what shows it."""
    tiles = list(frames_of(video, tile_indices(count)))
    return {
        "video.mp4": video.read_bytes(),
        "thumbnail.jpg": first_frame_jpeg(tiles),
        "spritesheet.jpg": spritesheet_jpeg(tiles),
    }


def read_made(made: MadeStep, name: str, attempt: Attempt, storage: Storage) -> bytes:
    """An artifact of an earlier step. Raises InputMissing, Stopped."""
    try:
        return attempt.keep_trying(lambda: storage.read(made.artifacts[name].key))
    except ArtifactNotFound as error:
        raise InputMissing(f"what the step {made.step.kind} made is no longer in the storage") from error
