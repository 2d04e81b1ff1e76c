"""Takes over what earlier tasks of the same owner have made, so that it need not be made again."""

from collections.abc import Mapping
from pathlib import PurePath

import structlog

from app.services import Services
from core.errors import ArtifactNotFound
from core.plan.graph import Graph
from core.storage import Storage, reused_key
from core.task import Artifact, FinishedStep

log = structlog.get_logger(__name__)


def reuse_steps(
    services: Services, owner: str, task_id: str, graph: Graph, keys: Mapping[str, str]
) -> dict[str, FinishedStep]:
    """Return the steps of `graph` that need not be done, by name, with copies of what others with the same content key
    have made. A step whose artifact is missing or damaged is done again."""
    needed = {name for step in graph.steps for name in step.needs}
    wanted = ({step.name for step in graph.steps} - needed) | {graph.result_step}
    found: dict[str, FinishedStep] = {}
    for step in reversed(graph.steps):
        if step.name not in wanted:  # whatever needs it is there
            found[step.name] = FinishedStep((), {})
            continue
        made = copy_made_before(services, owner, task_id, step.name, keys[step.name])
        if made:
            found[step.name] = made
        else:
            wanted |= set(step.needs)
    return found


def copy_made_before(services: Services, owner: str, task_id: str, name: str, content_key: str) -> FinishedStep | None:
    """Copy what a step with this content key has made into the task `task_id`, as made by its step `name`."""
    for made in services.ledger.made_before(owner, content_key):
        try:
            copies = [copy(services.storage, artifact, task_id, name) for artifact in made.artifacts.values()]
        except ArtifactNotFound as damaged:
            log.warning("artifact_not_reused", step_id=made.step.step_id, reason=damaged.message)
            continue
        return FinishedStep(tuple(copies), made.receipt | {"reused_from": made.step.task_id})
    return None


def copy(storage: Storage, artifact: Artifact, task_id: str, step_name: str) -> Artifact:
    """Raises ArtifactNotFound if it is gone, or is not what was stored."""
    if artifact.sha256 is None or storage.sha256(artifact.key) != artifact.sha256:
        raise ArtifactNotFound(f"{artifact.key} is not what was stored")
    key = reused_key(task_id, step_name, PurePath(artifact.key).name)
    storage.copy(artifact.key, key)
    return Artifact(artifact.name, key, artifact.bytes, artifact.sha256)


def stored_bytes(found: Mapping[str, FinishedStep]) -> int:
    return sum(artifact.bytes or 0 for step in found.values() for artifact in step.artifacts)
