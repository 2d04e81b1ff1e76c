"""From a submission to a recorded task: the one way in, whatever dialect the caller speaks."""

from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from app.intake.choose_engine import choose_engine, smoothing_queue
from app.intake.derive import check_there, extended_from, frames_before, inherit_parameters, remixed_from
from app.intake.limits import limits, require_disk_space, seconds_to_a_free_place
from app.intake.reuse import reuse_steps, stored_bytes
from app.intake.source import Gathered, gathering
from app.intake.submission import Submission
from app.services import Caller, Services
from core.engines.base import Engine
from core.errors import IdempotencyMismatch, LimitExceeded, QueueUnavailable, TaskExists
from core.ids import new_id
from core.ledger.workers import Worker
from core.outbound import check_outbound_url
from core.plan.clip import clip_graph
from core.plan.content_key import content_keys
from core.plan.graph import Graph
from core.requests.clip import Clip, ClipRequest
from core.requests.resolve import fit_length, fit_size, resolve
from core.task import IdempotencyKey, Input, NewStep, NewTask

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Choice:
    """What a submission comes to, by the workers that are there."""

    clip: Clip
    engine: Engine
    workers: list[Worker]
    warnings: Sequence[str]
    """Of the dialect, and of what was changed."""
    unused: Sequence[str]
    """Which parameters the engine does not use."""


def accept(services: Services, caller: Caller, asked: Submission) -> str:
    """Return the task's id. By then what it is made from is stored and the task is in the ledger: it will end.

    A picture is encoded anew while the rest is checked, and fetched only once it has been. Raises InvalidRequest for
    what the caller can mend, LimitExceeded, TaskGone, EngineUnavailable, LedgerUnavailable, StorageUnavailable.
    """
    if asked.callback:
        check_outbound_url(asked.callback.url, services.settings.fetch_allow, "callback_url", https_only=True)
    key = IdempotencyKey(caller.owner, asked.idempotency_key, asked.fingerprint) if asked.idempotency_key else None
    if key and (made := services.ledger.task_made_with(key)):
        return made
    check_there(asked.source, services)
    with gathering(asked.source, services, caller.owner) as gather:
        with asked.refused_by_name():
            choice = choose(services, asked)
        require_disk_space(services.settings)
        try:
            services.ledger.check_room(caller.owner, choice.engine.queue, *limits(services.settings))
            return keep(services, caller, asked, choice, gather(), key)
        except LimitExceeded as refused:
            if key and (made := services.ledger.task_made_with(key)):  # meanwhile: it may have taken the last place
                return made
            if refused.retry_after is None:
                queue, workers = choice.engine.queue, choice.workers
                refused.retry_after = seconds_to_a_free_place(services, choice.clip, queue, workers)
            raise


def choose(services: Services, asked: Submission) -> Choice:
    """Return the clip that is asked for, and what makes it. Raises InvalidParameter, EngineUnavailable."""
    request, before = inherit_parameters(asked.source, asked.request), frames_before(asked.source)
    workers = services.ledger.workers()
    engine = choose_engine(services, request.engine or services.settings.engine, workers)
    request, changed = adapted(request, engine, before) if asked.nearest else (request, [])
    clip, unused = resolve(request, engine, services.settings, before)
    if clip.profile == "fast" and asked.request.profile is None:
        changed.append("profile is fast, as in the video that goes on: an approximation")
    return Choice(clip, engine, workers, [*asked.warnings, *changed], unused)


def adapted(request: ClipRequest, engine: Engine, before: int | None) -> tuple[ClipRequest, list[str]]:
    return fit_size(request, engine) if before is None else fit_length(request, engine)


def keep(
    services: Services, caller: Caller, asked: Submission, choice: Choice, given: Gathered, key: IdempotencyKey | None
) -> str:
    """Store what the clip is made from, record the task, and return its id."""
    settings, engine, clip, unused = services.settings, choice.engine, choice.clip, choice.unused
    if asked.sizing and given.size:
        with asked.refused_by_name():
            clip, unused = resolve(asked.sizing.choose_size(given.size), engine, settings)
    graph = clip_graph(clip, engine, smoothing_queue(engine, choice.workers, settings), settings)
    task_id = new_id()
    stored = given.input_of(task_id)
    steps, copied_bytes = new_steps(services, caller.owner, task_id, graph, [stored], asked.reuse)
    task = NewTask(
        task_id=task_id,
        owner=caller.owner,
        engine=clip.engine,
        params=clip.model_dump(exclude_none=True),
        inputs=[stored],
        warnings=[*choice.warnings, *unused],
        steps=steps,
        result_step=graph.result_step,
        callback=asked.callback,
        dialect=asked.dialect,
        remixed_from=remixed_from(asked.source),
        extended_from=extended_from(asked.source),
        stored_bytes=given.stored_bytes + copied_bytes,
    )
    given.store(stored.key)
    return record(services, task, key)


def record(services: Services, task: NewTask, key: IdempotencyKey | None) -> str:
    """The id of the task that is in the ledger now: of this one, or of the one that `key` made meanwhile."""
    try:
        ready = services.ledger.create(task, key, *limits(services.settings))
    except (
        TaskExists,
        IdempotencyMismatch,
        LimitExceeded,
    ) as refused:  # any other error may have come after the commit
        services.storage.delete_task(task.task_id)
        if isinstance(refused, TaskExists):
            return refused.task_id
        raise
    for step_id, queue in ready:
        wake(services, step_id, queue)
    log.info("task_accepted", task_id=task.task_id, engine=task.engine)  # a worker need not wait for that
    return task.task_id


def new_steps(
    services: Services, owner: str, task_id: str, graph: Graph, inputs: Sequence[Input], reuse: bool
) -> tuple[list[NewStep], int]:
    """Return the steps of a task as they are recorded, and how many bytes were copied for it: with `reuse`, what was
    made before of the same is."""
    keys = content_keys(graph, {each.role: each.sha256 for each in inputs}, services.settings)
    finished = reuse_steps(services, owner, task_id, graph, keys) if reuse else {}
    return graph.new_steps(keys, finished), stored_bytes(finished)


def wake(services: Services, step_id: str, queue: str) -> None:
    try:
        services.queue.wake(step_id, queue)
    except QueueUnavailable as error:
        log.warning("step_not_woken", step_id=step_id, reason=error.message)  # the keeper will
