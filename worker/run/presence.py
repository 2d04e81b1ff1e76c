"""Tells the ledger every two seconds that this worker lives and what it holds."""

import os
import secrets
import socket
import threading

import structlog

from core.errors import LedgerUnavailable
from core.ledger.moves import Ledger
from core.ledger.workers import Worker
from core.process.machine import machine_id
from worker.engines.host import EngineHost

REPORT_SECONDS = 2.0

log = structlog.get_logger(__name__)


class Presence:
    def __init__(
        self, ledger: Ledger, queue: str, engine_host: EngineHost, metrics_port: int | None, at_once: int = 1
    ) -> None:
        # Never a fixed name: a restarted worker must not be taken for the one that died.
        self.worker_id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self.ledger, self.queue, self.engine_host = ledger, queue, engine_host
        self.metrics_port, self.at_once = metrics_port, at_once
        self.step_ids: list[str] = []
        """Of what it works on; the newest is reported."""
        self.ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="presence", daemon=True)

    def start(self) -> None:
        self.report()
        self._thread.start()

    def report(self) -> None:
        """Say at once what changed, unless this worker leaves; an unreachable ledger is told at the next turn."""
        if self.ended.is_set():
            return
        seen = Worker(
            worker_id=self.worker_id,
            queue=self.queue,
            host=socket.gethostname(),
            machine=machine_id(),
            pid=os.getpid(),
            device=self.engine_host.device,
            gpu=self.engine_host.gpu,
            engines=self.engine_host.report(),
            step_id=next(reversed(self.step_ids), None),
            metrics_port=self.metrics_port,
            at_once=self.at_once,
            started_at=0.0,
            seen_at=0.0,
            alive=True,
        )
        try:
            self.ledger.report_worker(seen)
        except LedgerUnavailable as error:
            log.warning("worker_not_reported", reason=error.message)

    def leave(self) -> None:
        """Called at an orderly end, so that nobody waits for this worker."""
        self.ended.set()
        if self._thread.is_alive():
            self._thread.join()
        try:
            self.ledger.sign_off_worker(self.worker_id)
        except LedgerUnavailable as error:
            log.warning("worker_not_signed_off", reason=error.message)

    def _keep(self) -> None:
        while not self.ended.wait(REPORT_SECONDS):
            try:
                self.report()
            except Exception:  # whatever it is, a worker that works must not count as dead
                log.exception("worker_not_reported")
