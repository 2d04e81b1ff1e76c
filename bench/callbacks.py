"""How fast callbacks are told, and how long one waits behind slow ones of its host.

    python -m bench.callbacks

A keeper's deliverer, the ledger in SQLite, and a receiver in one process.
"""

import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from core.callbacks.endpoints import FINAL_EVENTS
from core.config.settings import Settings
from core.ids import new_id
from core.ledger.moves import Ledger
from core.task import Callback, Input, NewStep, NewTask
from harness.receiver import Receiver, receiving
from harness.report import machine, print_table, write
from harness.servers import wait_until
from keeper.deliverer import Deliverer

FAST, SLOW = 500, 12
SLOW_SECONDS = 14.0  # a second less than a try may take


def main() -> None:
    rows = [told_fast(), *(waits_behind(path) for path in ("/slow", "/slow/{}"))]
    print_table(rows)
    print(f"\nwritten to {write('callbacks', {'machine': machine('httpx2', 'sqlalchemy'), 'figures': rows})}")


def told_fast() -> dict[str, Any]:
    with delivering() as (ledger, receiver):
        begun = time.monotonic()
        for _ in range(FAST):
            canceled_task(ledger, f"{receiver.url}/fast")
        recorded = time.monotonic() - begun
        wait_until(lambda: len(receiver.received) == FAST, 600, "all of them")
        seconds = time.monotonic() - begun
    what = f"{FAST} tasks canceled in {recorded:.1f} s, to one URL that answers at once"
    return {"what": what, "callbacks a second": FAST / seconds, "the last after, s": seconds}


def waits_behind(path: str) -> dict[str, Any]:
    """`path` with the number of the callback in it, if each has a URL of its own."""
    with delivering(delay=SLOW_SECONDS, slow="/slow") as (ledger, receiver):
        for number in range(SLOW):
            canceled_task(ledger, receiver.url + path.format(number))
        time.sleep(1)
        begun, last = time.monotonic(), canceled_task(ledger, f"{receiver.url}/fast")
        wait_until(lambda: last in [told.body["data"]["task_id"] for told in receiver.received], 600, "the fast one")
        seconds = time.monotonic() - begun
    what = f"one, behind {SLOW} to {path} of its host, which take {SLOW_SECONDS:g} s each"
    return {"what": what, "callbacks a second": None, "the last after, s": seconds}


@contextmanager
def delivering(**answers: Any) -> Iterator[tuple[Ledger, Receiver]]:
    ended = threading.Event()
    with tempfile.TemporaryDirectory(prefix="kinora-bench-") as folder:
        ledger = Ledger(f"sqlite:///{folder}/kinora.db")
        ledger.migrate()
        with receiving(ledger.endpoints.secret(""), **answers) as receiver:
            settings = Settings(_env_file=None, fetch_allow=urlsplit(receiver.url).netloc)
            thread = Deliverer(ledger, settings).start(ended)
            yield ledger, receiver
            ended.set()
            thread.join(20)
        ledger.close()


def canceled_task(ledger: Ledger, url: str) -> str:
    task_id = new_id()
    ledger.create(
        NewTask(
            task_id=task_id,
            owner="",
            engine="preview",
            params={"width": 64},
            inputs=[Input("picture", f"tasks/{task_id}/input", "0" * 64, "image/jpeg")],
            warnings=[],
            steps=[NewStep(kind="clip", queue="cpu", engine="preview")],
            callback=Callback(url, list(FINAL_EVENTS)),
        )
    )
    ledger.cancel(task_id)
    return task_id


if __name__ == "__main__":
    main()
