"""Makes a task again: a new task with the same parameters, in which what had finished stands finished."""

from dataclasses import replace

from app.intake.accept import new_task, record
from app.intake.choose_engine import choose_engine, smoothing_queue
from app.intake.limits import require_disk_space
from app.services import Caller, Services
from core.errors import ArtifactNotFound, NotReady, TaskGone, TaskNotFound
from core.ids import new_id
from core.plan.clip import clip_graph
from core.requests.clip import Clip
from core.storage import input_key
from core.task import Callback, Dialect


def retry_task(services: Services, caller: Caller, task_id: str) -> str:
    """Return the id of the new task. Its steps that had finished stand finished, if what they made is still there.

    Raises TaskNotFound, NotReady if the task has not ended, TaskGone if what it was made from was deleted, and what
    recording a task raises.
    """
    task = services.ledger.task(task_id, caller.sees)
    if task.deleted_at is not None:
        raise TaskNotFound(f"the task {task_id!r} was deleted", param="task_id")
    if not task.status.is_final:
        raise NotReady(f"the task is {task.status}: it can be made again once it has ended", retry_after=5)
    require_disk_space(services.settings)
    clip = Clip.model_validate(task.params)
    workers = services.ledger.workers()
    engine = choose_engine(services, clip.engine, workers)
    queue = smoothing_queue(engine, workers, services.settings)
    graph, again = clip_graph(clip, engine, queue, services.settings), new_id()
    (before,) = services.ledger.inputs(task_id).values()
    source = replace(before, key=input_key(again))
    try:
        services.storage.copy(before.key, source.key)
        size = services.storage.size(source.key)
    except ArtifactNotFound as error:
        raise TaskGone("what it was made from was deleted", reason="result_expired") from error
    new = new_task(services, task.owner, again, clip, graph, source, reuse=True)
    new = replace(
        new,
        stored_bytes=new.stored_bytes + size,
        callback=Callback(task.callback_url, task.callback_events) if task.callback_url else None,
        dialect=Dialect(task.dialect),
        remixed_from=task.remixed_from,
        extended_from=task.extended_from,
        retried_from=task_id,
    )
    return record(services, new, None)
