"""What a step made, from files into storage, and out of it into files for the next step."""

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from core.errors import ArtifactNotFound, InputMissing
from core.storage import artifact_key
from core.task import Artifact, MadeStep
from worker.media.mp4 import first_frame_jpeg, spritesheet_jpeg, tile_indices
from worker.media.video import frames_of
from worker.steps.base import StepContext


def store(files: Sequence[Path], context: StepContext) -> list[Artifact]:
    """Store each file, and return it as an artifact whose name is the file's without the ending. Raises Stopped."""
    claim, attempt = context.claim, context.attempt
    artifacts = []
    for path in files:
        key = artifact_key(claim.task.task_id, claim.step.step_id, claim.step.attempt, path.name)
        attempt.stored[key] = path.stat().st_size
        attempt.keep_trying(partial(context.storage.put, key, path))
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        artifacts.append(Artifact(path.stem, key, attempt.stored[key], sha256))
    return artifacts


def thumbnails(video: Path, count: int) -> list[Path]:
    """Write beside a video of `count` frames what shows it, and return the files."""
    tiles = list(frames_of(video, tile_indices(count)))
    thumbnail, spritesheet = video.with_name("thumbnail.jpg"), video.with_name("spritesheet.jpg")
    thumbnail.write_bytes(first_frame_jpeg(tiles))
    spritesheet.write_bytes(spritesheet_jpeg(tiles))
    return [thumbnail, spritesheet]


def fetch_made(made: MadeStep, name: str, path: Path, context: StepContext) -> Path:
    """Write an artifact of an earlier step to `path`, and return that. Raises InputMissing, Stopped."""
    try:
        context.attempt.keep_trying(lambda: context.storage.download(made.artifacts[name].key, path))
    except ArtifactNotFound as error:
        raise InputMissing(f"what the step {made.step.kind} made is no longer in the storage") from error
    return path


def fetch_input(role: str, path: Path, context: StepContext) -> Path:
    """Write what the task was made from to `path`, and return that. Raises InputMissing, Stopped."""
    try:
        context.attempt.keep_trying(lambda: context.storage.download(context.claim.inputs[role].key, path))
    except ArtifactNotFound as error:
        raise InputMissing("what the task was made from is no longer in the storage") from error
    return path
