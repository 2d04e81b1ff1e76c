"""How long a step of a worker that dies waits for its next attempt, with a second worker idle and the default lease.

    python -m bench.takeover

Half of the workers are killed, half are frozen; the moment of each is by this machine's clock, which is the ledger's.
"""

import signal
import statistics
import tempfile
import time
from pathlib import Path

import sqlalchemy as sa

from bench.service import PICTURE
from core.config.settings import Settings
from core.db.tables import attempts, steps
from core.ledger.moves import Ledger
from harness.report import machine, print_table, write
from harness.servers import wait_until
from harness.stack import Stack, running_stack

LEASE = str(Settings.model_fields["lease_seconds"].default)
LONG = {"width": 1024, "height": 576, "num_frames": 200}
TIMES = 5


def main() -> None:
    rows = []
    with (
        tempfile.TemporaryDirectory(prefix="kinora-bench-") as folder,
        running_stack(Path(folder), LEASE_SECONDS=LEASE) as stack,
    ):
        ledger = Ledger(f"sqlite:///{folder}/data/kinora.db")
        for how in (signal.SIGKILL, signal.SIGSTOP):
            seconds = [takeover(stack, ledger, how) for _ in range(TIMES)]
            rows.append(
                {
                    "worker": "killed" if how == signal.SIGKILL else "frozen",
                    "takeovers": len(seconds),
                    "lease, s": float(LEASE),
                    "median, s": statistics.median(seconds),
                    "longest, s": max(seconds),
                }
            )
        ledger.close()
    print_table(rows)
    print(f"\nwritten to {write('takeover', {'machine': machine('rq', 'redis'), 'figures': rows})}")


def takeover(stack: Stack, ledger: Ledger, how: signal.Signals) -> float:
    """Seconds from the signal to the start of the second attempt."""
    task_id = stack.upload(PICTURE, **LONG)
    stack.wait_for(task_id, "started")
    time.sleep(0.7)  # at any moment between two renewals
    dying = stack.processes["worker-cpu"]
    died_at = time.time()
    dying.send_signal(how)
    stack.start("worker-cpu", "worker", "--queue", "cpu")  # the one that takes over
    begun = sa.select(attempts.c.started_at).join(steps, steps.c.step_id == attempts.c.step_id)
    begun = begun.where(steps.c.task_id == task_id, attempts.c.attempt == 2)

    def second_attempt() -> float | None:
        with ledger.database.connect() as connection:
            return connection.execute(begun).scalar_one_or_none()

    wait_until(lambda: second_attempt() is not None, 60, "a second attempt")
    dying.kill()
    dying.wait()
    stack.client.post(f"/cancel/{task_id}")
    return float(second_attempt() or 0.0) - died_at


if __name__ == "__main__":
    main()
