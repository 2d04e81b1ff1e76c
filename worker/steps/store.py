"""What a step made, into storage."""

from pathlib import PurePath

from core.storage import Storage, artifact_key
from core.task import Claim
from worker.attempt import Attempt


def store(files: dict[str, bytes], claim: Claim, attempt: Attempt, storage: Storage) -> dict[str, str]:
    """Returns the storage key of each file by its name without the ending. Raises Stopped."""
    attempt.stored_bytes += sum(map(len, files.values()))
    artifacts = {}
    for name, data in files.items():
        key = artifact_key(claim.task.task_id, claim.step.step_id, claim.step.attempt, name)
        artifacts[PurePath(name).stem] = key
        attempt.keep_trying(lambda key=key, data=data: storage.put(key, data))  # type: ignore[misc]
    return artifacts
