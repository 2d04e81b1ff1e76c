"""python -m worker --queue gpu: loads the engine, then takes steps from one queue until it is told to stop."""

import argparse
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

import structlog
from redis.exceptions import RedisError
from rq.exceptions import StopRequested

from core.config.settings import read_settings
from core.errors import EngineUnavailable, GpuLost
from core.ledger.moves import Ledger
from core.ledger.startup import wait_for_ledger
from core.process.logs import set_up_logs
from core.process.no_proxy import reach_loopback_directly
from core.process.private_files import keep_files_private, warn_of_open_places
from core.process.scratch import scratch_folder
from core.process.unusable import ends_if_unusable
from core.queue import StepQueue, connect_redis, reason_of
from core.redis_keys import QUEUES
from core.storage import Storage
from worker.engines.host import EngineHost
from worker.metrics import WorkerMetrics
from worker.run.lanes import CpuLane, Lane, steps_at_once
from worker.run.net_lane import NetLane
from worker.run.presence import Presence
from worker.run.rq_worker import StepWorker
from worker.run.runner import WorkerContext, release_steps
from worker.run.watchdog import CHECK_POINT_SECONDS

EXIT_GPU_LOST = 71  # EX_OSERR
RELOAD_SECONDS = 60.0
RECONNECT_SECONDS = 1.0

LANES: dict[str, type[Lane]] = {"gpu": Lane, "cpu": CpuLane, "net": NetLane}

log = structlog.get_logger(__name__)


@ends_if_unusable()
def main() -> None:
    keep_files_private()
    arguments = argparse.ArgumentParser(prog="python -m worker", description=__doc__)
    arguments.add_argument("--queue", required=True, choices=QUEUES, help="the one queue to take steps from")
    queue = arguments.parse_args().queue
    settings = read_settings()
    set_up_logs(settings.log_format)
    reach_loopback_directly()
    on_stop(lambda *_: os._exit(0))  # nothing has begun

    ledger = Ledger(settings.resolved_database_url)
    wait_for_ledger(ledger, threading.Event())  # a signal ends this process outright
    metrics = WorkerMetrics()
    port = metrics.serve(settings.worker_metrics_host, settings.worker_metrics_port)
    engine_host = EngineHost(settings, queue, metrics)
    presence = Presence(ledger, queue, engine_host, port, steps_at_once(queue))
    stores = ledger, Storage(settings.resolved_storage_url), StepQueue(settings)
    warn_of_open_places(settings.local_places)
    with scratch_folder("worker") as scratch:
        context = WorkerContext(settings, *stores, engine_host, presence, metrics, scratch)
        work(context, queue)
    if context.gpu_lost:
        os._exit(EXIT_GPU_LOST)  # torch's own end in a process whose CUDA is dead may hang or abort


def work(context: WorkerContext, queue: str) -> None:
    """Load the engine, and take steps until this worker is to leave."""
    on_stop(lambda *_: force_exit_in_thread(context))
    context.presence.start()
    try:
        load_engine(context)
        if not context.gpu_lost:
            take_steps(context, queue)
    finally:
        on_stop(lambda *_: drain(context))
        context.presence.leave()
        context.ledger.close()


def on_stop(handler: Callable[[int, FrameType | None], None]) -> None:
    signal.signal(signal.SIGTERM, handler)
    signal.signal(signal.SIGINT, handler)


def drain(context: WorkerContext) -> None:
    """What runs is given back once SHUTDOWN_GRACE is over. Doing it twice changes nothing."""
    for seconds, what in ((0.0, release_steps), (CHECK_POINT_SECONDS, force_exit)):
        timer = threading.Timer(context.settings.shutdown_grace + seconds, what, [context])
        timer.daemon = True
        timer.start()


def force_exit_in_thread(context: WorkerContext) -> None:
    """Leave by a thread. An exception out of a signal's handler would come in the midst of whatever a library does, and
    its cleaning up may raise another in its place."""
    context.presence.ended.set()
    threading.Thread(target=force_exit, args=[context], daemon=True).start()


def force_exit(context: WorkerContext) -> None:
    """Nothing has begun, or what ran was given back and this process is stuck in it."""
    try:
        context.presence.leave()
    finally:
        shutil.rmtree(context.scratch, ignore_errors=True)
        os._exit(0)


def load_engine(context: WorkerContext) -> None:
    """Load before taking work. An engine that cannot run here is reported, and tried again in a while."""
    while True:
        try:
            context.engine_host.preload()
        except (EngineUnavailable, GpuLost) as error:
            log.error("engine_unavailable", engine=next(iter(context.engine_host.engines)), reason=error.message)
            context.presence.report()
            time.sleep(RELOAD_SECONDS)
            if isinstance(error, GpuLost):  # only a fresh process can try again
                context.gpu_lost = True
                return
            continue
        context.presence.report()
        return


def take_steps(context: WorkerContext, queue: str) -> None:
    """RQ's loop ends when Redis fails for long; a new one begins when Redis is back."""
    lane = LANES[queue](context)

    def answer() -> bool:
        lane.run_next()
        reason = lane.reason_to_leave()
        if reason:
            log.info("worker_leaves", reason=reason)
        return reason is None

    def stop() -> None:
        lane.closing = True
        drain(context)

    def leave(signum: int, frame: FrameType | None) -> None:
        stop()
        sys.exit(0)

    on_stop(leave)  # until the loop sets its own handlers, and again once it has ended
    if context.presence.ended.is_set():  # told so as it started: it takes no step before the other thread ends it
        threading.Event().wait()
    try:
        listen(context, queue, answer, stop, leave)
    finally:
        on_stop(lambda *_: stop())
        if lane.drains_at_close:
            stop()
        lane.close()


def listen(
    context: WorkerContext,
    queue: str,
    answer: Callable[[], bool],
    stop: Callable[[], None],
    leave: Callable[[int, FrameType | None], None],
) -> None:
    """Answer wake-ups until this worker is to leave."""
    while True:
        loop = None
        try:
            loop = StepWorker(queue, connect_redis(context.settings), answer, stop)
            loop.work(logging_level="WARNING")
        except RedisError as error:
            log.warning("redis_away", reason=reason_of(error))
        except StopRequested:  # told so as the loop said goodbye
            pass
        on_stop(leave)
        if loop and loop.stopping:  # also if Redis was away as the loop said goodbye
            return
        time.sleep(RECONNECT_SECONDS)
