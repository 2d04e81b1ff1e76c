"""Who is there to work: workers and keepers say that they live, and what they hold."""

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from core.db.database import reading, writing
from core.db.tables import keepers, now, workers

# Workers and keepers report every two seconds; after this many without word one counts as gone.
ALIVE_SECONDS = 15.0
FORGOTTEN_SECONDS = 24 * 3600.0

WORKERS = sa.select(workers, (workers.c.seen_at > now() - ALIVE_SECONDS).label("alive")).order_by(
    workers.c.queue, workers.c.started_at
)


@dataclass(frozen=True)
class Worker:
    """A worker as it last reported. `engines` maps each engine it serves to {"ready": bool, "reason": str | None}."""

    worker_id: str
    queue: str
    host: str
    machine: str
    """The same for all containers of one machine, other than `host`."""
    pid: int
    device: str
    engines: dict[str, dict[str, Any]]
    step_id: str | None
    metrics_port: int | None
    started_at: float
    seen_at: float
    alive: bool
    gpu: str | None = None
    """The UUID of the one that it holds."""
    at_once: int = 1
    """How many steps it does at a time; of the cpu lane only one that uses all cores."""

    def serves(self, queue: str) -> bool:
        """Return whether it takes that queue's steps or soon will: not one that waits for weights, or for a GPU to fall
        free. One of a queue that has no engines needs none."""
        can = not self.engines or any(said["reason"] is None for said in self.engines.values())
        return self.alive and self.queue == queue and can


class WorkerReports:
    """A part of the ledger."""

    database: sa.Engine

    def workers(self) -> list[Worker]:
        """Every worker heard of in the last day, with whether it is alive now."""
        with reading(self.database) as connection:
            rows = connection.execute(WORKERS)
            return [Worker(**{name: getattr(row, name) for name in Worker.__dataclass_fields__}) for row in rows]

    def keepers(self) -> int:
        """How many are alive."""
        query = sa.select(sa.func.count()).where(keepers.c.seen_at > now() - ALIVE_SECONDS)
        with reading(self.database) as connection:
            return int(connection.execute(query).scalar_one())

    def report_worker(self, worker: Worker) -> None:
        """Record that this worker lives and what it holds."""
        values = {
            name: getattr(worker, name)
            for name in Worker.__dataclass_fields__
            if name not in ("seen_at", "started_at", "alive")
        }
        with writing(self.database) as tx:
            mine = workers.c.worker_id == worker.worker_id
            if not tx.execute(workers.update().where(mine).values(**values, seen_at=now())).rowcount:
                tx.execute(workers.insert().values(**values, started_at=now(), seen_at=now()))

    def sign_off_worker(self, worker_id: str) -> None:
        """It left in order. Its row stays for a day, as the proof of what machines are there (`ENGINE=auto`)."""
        with writing(self.database) as tx:
            gone = now() - ALIVE_SECONDS
            tx.execute(workers.update().where(workers.c.worker_id == worker_id).values(seen_at=gone, step_id=None))

    def report_keeper(self, keeper_id: str) -> None:
        """Record that this keeper lives."""
        with writing(self.database) as tx:
            mine = keepers.c.keeper_id == keeper_id
            if not tx.execute(keepers.update().where(mine).values(seen_at=now())).rowcount:
                tx.execute(keepers.insert().values(keeper_id=keeper_id, seen_at=now()))

    def forget_old_workers(self) -> None:
        """Drop the workers and keepers not heard of for a day."""
        with writing(self.database) as tx:
            for table in (workers, keepers):
                tx.execute(table.delete().where(table.c.seen_at < now() - FORGOTTEN_SECONDS))
