"""API server, worker and keeper in one process, which crash wherever they have in hand what a caller sent:

    python -m tests.core.crashing FOLDER REDIS_PORT FORMAT

What they had in hand is in FOLDER/quoted, and they end with 1.
"""

import contextlib
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import uvicorn

import app.intake.accept
from app.main import create_app
from app.middleware.slow_clients import BoundedHttp
from core.config.settings import Settings
from core.ledger.moves import Ledger
from core.process.logs import set_up_logs
from core.queue import StepQueue
from core.status import Status
from core.storage import Storage
from core.task import Callback
from harness.pictures import png
from harness.servers import wait_until
from keeper.deliverer import Deliverer
from keeper.main import Keeper
from tests.conftest import new_task
from worker.engines.camera import Camera
from worker.engines.host import EngineHost
from worker.metrics import WorkerMetrics
from worker.run.lanes import Lane
from worker.run.presence import Presence
from worker.run.runner import WorkerContext

PROMPT, SEED, TOKEN = "a-prompt-of-a-users", "1029384756", "a-token-in-a-url"
FIELDS = {"prompt": PROMPT, "seed": SEED, "callback_url": f"http://127.0.0.1:9/{TOKEN}", "width": 64, "height": 64}


class Crashing:
    def __init__(self, folder: Path, redis_port: int, log_format: str) -> None:
        self.quoted = folder / "quoted"
        self.settings = Settings(
            _env_file=None, data_dir=folder, redis_port=redis_port, log_format=log_format, fetch_allow="127.0.0.1:9"
        )
        set_up_logs(log_format)
        self.ledger = Ledger(self.settings.resolved_database_url)
        self.ledger.migrate()
        self.storage, self.queue = Storage(self.settings.resolved_storage_url), StepQueue(self.settings)

    def crash(self, *given: Any, **named: Any) -> None:
        quoted = f"{given} {named}"
        with self.quoted.open("a") as file:
            file.write(f"{quoted}\n")
        try:
            {}[quoted]
        except KeyError as error:
            raise ValueError(quoted) from error

    def in_the_front(self) -> None:
        config = uvicorn.Config(create_app(self.settings), port=0, http=BoundedHttp, log_config=None, access_log=False)
        server = uvicorn.Server(config)
        threading.Thread(target=server.run, daemon=True).start()
        wait_until(lambda: server.started, 30, "the server")
        host, port = server.servers[0].sockets[0].getsockname()
        with httpx2.Client(base_url=f"http://{host}:{port}", timeout=30) as client:
            record, app.intake.accept.record = app.intake.accept.record, self.crash
            assert client.post("/generate", files={"file": png(64, 64)}, data=FIELDS).status_code == 500
            app.intake.accept.record = record
            made = [client.post("/generate", files={"file": png(64, 64)}, data=FIELDS).json() for _ in range(2)]
            self.in_a_worker(made[0]["task_id"], made[1]["task_id"])
            stream, Storage.stream = Storage.stream, self.half_a_stream
            with contextlib.suppress(httpx2.TransportError):
                client.get(f"/results/{made[0]['task_id']}", params={"key": TOKEN})
            Storage.stream = stream

    def half_a_stream(self, *given: Any) -> Iterator[bytes]:
        yield b"half"
        self.crash(*given)

    def in_a_worker(self, whole: str, crashes: str) -> None:
        engine_host = EngineHost(self.settings, "cpu")
        engine_host.preload()
        presence = Presence(self.ledger, "cpu", engine_host, None)
        metrics, scratch = WorkerMetrics(), self.settings.data_dir / "scratch"
        scratch.mkdir()
        context = WorkerContext(
            self.settings, self.ledger, self.storage, self.queue, engine_host, presence, metrics, scratch
        )
        self.do(whole, context)
        render, Camera.render = Camera.render, self.crash
        self.do(crashes, context)
        Camera.render = render
        context.finalizer.wait()
        assert [self.ledger.task(task).status for task in (whole, crashes)] == [Status.FINISHED, Status.FAILED]

    def do(self, task_id: str, context: WorkerContext) -> None:
        Lane(context).run_next()
        assert self.ledger.task(task_id).status.is_final or context.running

    def in_the_keeper(self) -> None:
        ended = threading.Event()
        deliverer = Deliverer(self.ledger, self.settings)
        deliverer._send = self.crash
        thread = deliverer.start(ended)
        wait_until(
            lambda: self.ledger.deliveries.page("", status=None, task_id=None, after=None, limit=1)[0].tries > 0,
            what="a delivery",
        )
        ended.set()
        thread.join(10)
        twice = new_task(callback=Callback(f"http://127.0.0.1:9/{TOKEN}", ["finished"]))
        self.ledger.create(twice)

        def again() -> None:
            self.ledger.create(twice)  # an error of the database's, which has all that was to be written

        Keeper(self.settings, self.ledger, self.storage, self.queue)._do(again)

    def elsewhere(self) -> None:
        thread = threading.Thread(target=self.crash, args=[PROMPT])
        thread.start()
        thread.join()
        warnings.warn(f"a library says {PROMPT}", stacklevel=1)
        logging.getLogger("mcp.server").warning("Failed to validate request: %s", PROMPT)
        logging.getLogger("mcp.server").warning("This line wants two values: %s and %s", PROMPT)
        logging.getLogger("asyncio").error(f"Task exception was never retrieved\nfuture: <Task {PROMPT}>")


def main() -> None:
    folder, redis_port, log_format = sys.argv[1:]
    crashing = Crashing(Path(folder), int(redis_port), log_format)
    crashing.in_the_front()
    crashing.in_the_keeper()
    crashing.elsewhere()
    crashing.crash(PROMPT)


if __name__ == "__main__":
    main()
