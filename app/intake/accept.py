"""From a source and a request to a recorded task: the one way in, whatever dialect the caller speaks."""

import hashlib
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace

import structlog

from app.intake.derive import check_there, extended_from, frames_before, inherit_parameters, remixed_from
from app.intake.reuse import reuse_steps, stored_bytes
from app.intake.source import Sizing, Source, gathering, name_of
from app.services import Caller, Services
from core.config import Settings
from core.engines import Engine, find_engine, known_engines
from core.errors import (
    EngineUnavailable,
    IdempotencyMismatch,
    LimitExceeded,
    QueueUnavailable,
    StorageFull,
    TaskExists,
)
from core.ledger.durations import StepProfile
from core.outbound import check_outbound_url
from core.plan.clip import clip_graph
from core.plan.content_key import content_keys
from core.plan.graph import Graph
from core.spec import Clip, ClipRequest, fit_length, fit_size, resolve
from core.task import Bounds, Callback, Dialect, IdempotencyKey, Input, NewTask, Quota, Worker, new_id

log = structlog.get_logger(__name__)


def accept(
    services: Services,
    caller: Caller,
    source: Source,
    request: ClipRequest,
    idempotency_key: str | None = None,
    callback: Callback | None = None,
    dialect: Dialect = Dialect.KINORA,
    nearest: bool = False,
    warnings: Sequence[str] = (),
    sizing: Sizing | None = None,
    reuse: bool = False,
) -> str:
    """The task's id. When this returns, what it is made from is stored and the task is in the ledger: it will end.

    A picture is encoded anew while the rest is checked, and fetched only once it has been. What `request` leaves out is
    as it was in the task that is remixed or extended, but for the seed. With `nearest` an engine that cannot make
    the size, or so many seconds more, makes its largest of that shape, or as many as it can. `warnings` are those of
    the dialect.

    With `reuse`, a step that the owner has had done before is not done again. `sizing` says what takes the place of
    `request` once the picture's own width and height are known.

    With an idempotency key, a request made again gives the task that it made first. Raises InvalidRequest for what
    the caller can mend, LimitExceeded, TaskGone, EngineUnavailable, LedgerUnavailable, StorageUnavailable.
    """
    if callback:
        check_outbound_url(callback.url, services.settings.fetch_allow, "callback_url", https_only=True)
    sent = fingerprint(request, source, callback, sizing, reuse)
    key = IdempotencyKey(caller.owner, idempotency_key, sent) if idempotency_key else None
    if key and (made := services.ledger.task_made_with(key)):
        return made
    check_there(source, services)
    with gathering(source, services, caller.owner) as gather:
        names_profile = request.profile is not None
        request = inherit_parameters(source, request)
        workers = services.ledger.workers()
        engine = choose_engine(services, request.engine or services.settings.engine, workers)
        before = frames_before(source)
        request, changed = adapted(request, engine, before) if nearest else (request, [])
        clip, unused = resolve(request, engine, services.settings, before)
        if clip.profile == "fast" and not names_profile:
            changed.append("profile is fast, as in the video that goes on: an approximation")
        require_disk_space(services.settings)
        try:
            services.ledger.check_room(caller.owner, engine.queue, *limits(services.settings))
            given = gather()
            if sizing and given.size:
                clip, unused = resolve(sizing.choose_size(given.size), engine, services.settings)
            graph = clip_graph(clip, engine, smoothing_queue(engine, workers, services.settings), services.settings)
            task_id = new_id()
            stored = given.input_of(task_id)
            task = replace(
                new_task(services, caller.owner, task_id, clip, graph, stored, reuse),
                warnings=[*warnings, *changed, *unused],
                callback=callback,
                dialect=dialect,
                remixed_from=remixed_from(source),
                extended_from=extended_from(source),
            )
            given.store(stored.key)
            return record(services, replace(task, stored_bytes=task.stored_bytes + given.stored_bytes), key)
        except LimitExceeded as refused:
            if key and (made := services.ledger.task_made_with(key)):  # meanwhile: it may have taken the last place
                return made
            if refused.retry_after is None:
                refused.retry_after = seconds_to_a_free_place(services, clip, engine.queue, workers)
            raise


def adapted(request: ClipRequest, engine: Engine, before: int | None) -> tuple[ClipRequest, list[str]]:
    return fit_size(request, engine) if before is None else fit_length(request, engine)


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


def limits(settings: Settings) -> tuple[Bounds, Quota]:
    stored_bytes = settings.max_stored_mb_per_key * 1_000_000
    quota = Quota(settings.max_tasks_per_hour, settings.max_waiting_per_key, stored_bytes)
    return Bounds(settings.max_waiting, settings.max_waiting_per_queue), quota


def new_task(
    services: Services, owner: str, task_id: str, clip: Clip, graph: Graph, source: Input, reuse: bool
) -> NewTask:
    """Return the task that makes `clip` from `source`; with `reuse`, what was made before is copied for it."""
    keys = content_keys(graph, {source.role: source.sha256}, services.settings)
    finished = reuse_steps(services, owner, task_id, graph, keys) if reuse else {}
    return NewTask(
        task_id=task_id,
        owner=owner,
        engine=clip.engine,
        params=clip.model_dump(exclude_none=True),
        inputs=[source],
        warnings=[],
        steps=graph.new_steps(keys, finished),
        result_step=graph.result_step,
        stored_bytes=stored_bytes(finished),
    )


def smoothing_queue(engine: Engine, workers: list[Worker], settings: Settings) -> str:
    """Where motion is smoothed. With RIFE, by the engine's own workers, which have what it takes. Else by a worker that
    has no GPU to keep waiting, if there is one; elsewhere the engine's own do it, beside their next clip."""
    on_cpu = not settings.rife_weights and any(worker.serves("cpu") for worker in workers)
    return "cpu" if on_cpu else engine.queue


def require_disk_space(settings: Settings) -> None:
    """Raises StorageFull. Only this machine's disk is looked at: an object store has none that could be asked."""
    free = shutil.disk_usage(settings.data_dir).free / 1e6
    if free < settings.min_free_disk_mb:
        raise StorageFull(f"only {free:.0f} MB of disk space are free; {settings.min_free_disk_mb} MB must be left")


def seconds_to_a_free_place(services: Services, clip: Clip, queue: str, workers: list[Worker]) -> int:
    """How long one place in the queue takes to come free, as measured: a step's time shared by who works there."""
    duration = services.ledger.step_durations().of(StepProfile(clip.engine, "clip", clip.size, clip.work))
    seconds = max(duration.render, duration.finalize) if duration else 5.0
    at_work = sum(worker.serves(queue) for worker in workers)
    return max(1, min(60, math.ceil(seconds / max(1, at_work))))


def fingerprint(
    request: ClipRequest, source: Source, callback: Callback | None, sizing: Sizing | None, reuse: bool = False
) -> str:
    """SHA-256 of all that a caller sent; defaults are not filled in, for they may change."""
    told = f" {callback.url} {' '.join(callback.events)}" if callback else ""
    more = (f" {sizing.name}" if sizing else "") + " reuse" * reuse
    sent = f"{request.model_dump_json(exclude_none=True)} {name_of(source)}{told}{more}"
    return hashlib.sha256(sent.encode()).hexdigest()


def wake(services: Services, step_id: str, queue: str) -> None:
    try:
        services.queue.wake(step_id, queue)
    except QueueUnavailable as error:
        log.warning("step_not_woken", step_id=step_id, reason=error.message)  # the keeper will


def choose_engine(services: Services, name: str, workers: list[Worker]) -> Engine:
    """Raises InvalidParameter for an unknown name, EngineUnavailable if every worker says that it cannot run."""
    if name == "auto":
        name = auto_engine(services.settings, workers)
    engine = find_engine(name, services.settings)
    reason = unavailable_reason(engine, workers)
    if reason:
        raise EngineUnavailable(f"{engine.name} cannot run here: {reason}", param="engine")
    return engine


def auto_engine(settings: Settings, workers: list[Worker]) -> str:
    """The first engine that wants a GPU if a worker with CUDA was seen in the last day, alive or restarting;
    else the first that needs none."""
    has_cuda = any(worker.device.startswith("cuda") for worker in workers)
    return next(engine.name for engine in known_engines(settings).values() if engine.needs_cuda == has_cuda)


def unavailable_reason(engine: Engine, workers: list[Worker]) -> str | None:
    """None if a worker can run it, is about to, or none has reported yet: then the task waits for one."""
    said = [worker.engines[engine.name] for worker in workers if worker.alive and engine.name in worker.engines]
    if not said or any(report["ready"] or report["loading"] for report in said):
        return None
    return str(said[0]["reason"])
