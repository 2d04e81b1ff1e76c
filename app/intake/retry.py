"""Makes a task again: a new task with the same steps, in which what had finished stands finished."""

from dataclasses import replace

from pydantic import ValidationError

from app.intake.accept import new_steps, record
from app.intake.choose_engine import choose_engine, smoothing_queue
from app.intake.limits import limits, require_disk_space
from app.services import Caller, Services
from core.engines.known import find_engine
from core.errors import ArtifactNotFound, InvalidParameter, NotReady, TaskGone, TaskNotFound
from core.ids import new_id
from core.ledger.workers import Worker
from core.plan.clip import clip_graph
from core.plan.graph import Graph, PlannedStep
from core.plan.steps import SmoothClip
from core.requests.clip import Clip
from core.status import Status
from core.storage import input_key
from core.task import Callback, Dialect, Input, NewTask, Step, Task


def retry_task(services: Services, caller: Caller, task_id: str) -> str:
    """Return the id of the new task. Its steps that had finished stand finished, if what they made is still there.

    Raises TaskNotFound, NotReady if the task has not ended, TaskGone if what it was made from was deleted, and what
    recording a task raises.
    """
    task, steps = services.ledger.task_with_steps(task_id, caller.sees)
    if task.deleted_at is not None:
        raise TaskNotFound(f"the task {task_id!r} was deleted", param="task_id")
    if not task.status.is_final:
        raise NotReady(f"the task is {task.status}: it can be made again once it has ended", retry_after=5)
    require_disk_space(services.settings)
    workers = services.ledger.workers()
    graph = graph_of(services, task, steps, workers)
    finished = {step.name for step in steps if step.status == Status.FINISHED}
    check_can_wait(services, task.owner, [step for step in graph.steps if step.name not in finished], workers)
    again = new_id()
    inputs, input_bytes = copy_inputs(services, task_id, again)
    planned, copied_bytes = new_steps(services, task.owner, again, graph, inputs, reuse=True)
    new = NewTask(
        task_id=again,
        owner=task.owner,
        engine=task.engine,
        params=task.params,
        inputs=inputs,
        warnings=[],
        steps=planned,
        result_step=graph.result_step,
        callback=Callback(task.callback_url, task.callback_events) if task.callback_url else None,
        dialect=Dialect(task.dialect),
        remixed_from=task.remixed_from,
        extended_from=task.extended_from,
        retried_from=task_id,
        stored_bytes=input_bytes + copied_bytes,
    )
    return record(services, new, None)


def check_can_wait(services: Services, owner: str, left: list[PlannedStep], workers: list[Worker]) -> None:
    """Judge, before anything is copied, what is left to do if what had finished is still there. Raises LimitExceeded,
    EngineUnavailable."""
    for name in {step.engine for step in left if step.engine}:
        choose_engine(services, name, workers)
    if left:
        services.ledger.check_room(owner, left[0].queue, *limits(services.settings))


def graph_of(services: Services, task: Task, steps: list[Step], workers: list[Worker]) -> Graph:
    """Return the steps as the task had them, but that motion is smoothed where it would be now. A clip of a version
    whose steps did not say their kind is planned anew. Raises InvalidParameter for a step of another version."""
    engine = find_engine(task.engine, services.settings)
    smoothing = smoothing_queue(engine, workers, services.settings)
    if not all("kind" in step.params for step in steps):
        return clip_graph(Clip.model_validate(task.params), engine, smoothing, services.settings)
    try:
        needs, prompt = services.ledger.needs(task.task_id), task.params.get("prompt")
        recorded = Graph.of_recorded(steps, needs, task.result_step, prompt)
    except ValidationError as error:
        message = "the task has a step that this version of Kinora cannot make again"
        raise InvalidParameter(message, param="task_id") from error
    moved = (replace(step, queue=smoothing) if isinstance(step.params, SmoothClip) else step for step in recorded.steps)
    return replace(recorded, steps=tuple(moved))


def copy_inputs(services: Services, task_id: str, again: str) -> tuple[list[Input], int]:
    """Copy what a task is made from for the task `again`; return that and its bytes. Raises TaskGone."""
    copies, stored_bytes = [], 0
    try:
        for before in services.ledger.inputs(task_id).values():
            copy = replace(before, key=input_key(again, before.role))
            services.storage.copy(before.key, copy.key)
            stored_bytes += services.storage.size(copy.key)
            copies.append(copy)
    except ArtifactNotFound as error:
        services.storage.delete_task(again)
        raise TaskGone("what it was made from was deleted", reason="result_expired") from error
    return copies, stored_bytes
