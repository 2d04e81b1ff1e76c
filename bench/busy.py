"""A worker that never lacks work: ten clients with clips of several sizes, and what its engine makes of the time.

With the preview engine, and with Stable Video Diffusion on random weights: full on a GPU, REDUCED without one
(harness/random_svd.py). On two cores the encoder takes from the engine what it renders with: only the figures of a GPU
say what a GPU makes of its time.
"""

import itertools
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import sqlalchemy as sa

from core.config.settings import Settings
from core.db.tables import tasks
from core.engines.known import find_engine
from core.ledger.moves import Ledger
from core.picture import read_stored
from core.requests.clip import ClipRequest
from core.requests.resolve import resolve
from harness.report import spread
from harness.servers import RedisServer
from harness.stack import Stack
from worker.attempt import Attempt
from worker.engines.base import Renderer, create_engine

CLIENTS = 10
READY_SECONDS = 1200.0  # an engine may compile itself first

Size = dict[str, int]
PREVIEWS: list[Size] = [
    {"width": 1024, "height": 576, "num_frames": 25},
    {"width": 512, "height": 288, "num_frames": 50},
    {"width": 640, "height": 640, "num_frames": 25},
]
SVDS: dict[str, list[Size]] = {
    "cuda": [
        {"width": 1024, "height": 576, "num_frames": 25, "num_inference_steps": 25},
        {"width": 576, "height": 1024, "num_frames": 25, "num_inference_steps": 25},
        {"width": 768, "height": 448, "num_frames": 14, "num_inference_steps": 25},
    ],
    "cpu": [
        {"width": 256, "height": 192, "num_frames": 4, "num_inference_steps": 2},
        {"width": 192, "height": 256, "num_frames": 4, "num_inference_steps": 2},
        {"width": 128, "height": 128, "num_frames": 4, "num_inference_steps": 2},
    ],
}

Span = tuple[float, float]
"""When it began and ended, in seconds since the epoch."""


@dataclass(frozen=True)
class Work:
    engine: str
    queue: str
    sizes: list[Size]
    clips: int
    picture: Path
    settings: dict[str, str] = field(default_factory=dict)

    def asked(self) -> list[Size]:
        return list(itertools.islice(itertools.cycle(self.sizes), self.clips))


def busy(picture: Path) -> dict[str, Any]:
    import torch  # takes seconds, and belongs to none of the other figures

    from harness.random_svd import build_pipeline

    device = "cuda" if torch.cuda.is_available() else "cpu"
    figures = {}
    with tempfile.TemporaryDirectory(prefix="kinora-bench-") as folder:
        figures["preview"] = measure(Work("preview", "cpu", PREVIEWS, 60, picture), Path(folder))
    with tempfile.TemporaryDirectory(prefix="kinora-bench-") as folder:
        model = Path(folder) / "model"
        build_pipeline(device, reduced=device == "cpu").save_pretrained(model)
        svd = Work("svd-xt", "gpu", SVDS[device], 20, picture, {"MODEL_ID": str(model)})
        figures[f"svd-xt {device}"] = measure(svd, Path(folder))
    return figures


def measure(work: Work, folder: Path) -> dict[str, Any]:
    bare = bare_seconds(work)
    with RedisServer() as redis, Stack(folder, redis, ENGINE=work.engine, **work.settings) as stack:
        return in_service(work, stack) | {"clips_an_hour_of_the_bare_engine": 3600 * work.clips / bare}


def bare_seconds(work: Work) -> float:
    """The same clips one after another, from the picture to the frames, with nothing around."""
    settings = Settings(_env_file=None, **{name.lower(): value for name, value in work.settings.items()})
    renderer = cast(Renderer, create_engine(find_engine(work.engine, settings), settings))
    renderer.load()
    picture = read_stored(work.picture.read_bytes())
    clips = [resolve(ClipRequest(seed=1, **size), renderer.engine, settings)[0] for size in work.sizes + work.asked()]
    for number, clip in enumerate(clips):
        if number == len(work.sizes):  # each size has been there once
            begun = time.perf_counter()
        renderer.render(picture, clip, Attempt(renderer.phases))
    seconds = time.perf_counter() - begun
    renderer.unload()
    return seconds


def in_service(work: Work, stack: Stack) -> dict[str, Any]:
    spans = stack.folder / "renders"
    stack.start("app", "app")
    stack.start("keeper", "keeper")
    stack.start("worker", "bench.renders", str(spans), "--queue", work.queue)
    stack.wait_until_ready(READY_SECONDS)
    for size in work.sizes:
        stack.finish(stack.upload(work.picture, **size), timeout=READY_SECONDS)
    before = len(read(spans))
    ids = from_many_clients(work, stack)
    rendered = read(spans)[before:]
    gaps = [1000 * (later[0] - earlier[1]) for earlier, later in itertools.pairwise(rendered)]
    wall = rendered[-1][1] - rendered[0][0]
    return {
        "clips": work.clips,
        "engine_busy_percent": 100 * sum(end - begun for begun, end in rendered) / wall,
        "gap_ms": spread(gaps),
        "waiting_s": spread(waits(stack, ids)),
        "clips_an_hour": 3600 * work.clips / wall,
    }


def read(spans: Path) -> list[Span]:
    """What bench/renders.py wrote."""
    return [tuple(map(float, line.split())) for line in spans.read_text().splitlines()]  # type: ignore[misc]  # two on each line


def from_many_clients(work: Work, stack: Stack) -> list[str]:
    """Each asks for a clip, waits for its end, and asks for the next one."""
    left, ids, lock = iter(work.asked()), [], threading.Lock()

    def client() -> None:
        while True:
            with lock:
                size = next(left, None)
            if size is None:
                return
            task_id = stack.upload(work.picture, **size)
            ids.append(task_id)
            while (status := stack.status(task_id)["status"]) != "finished":
                assert status in ("queued", "started"), status
                time.sleep(0.5)  # seldom, for the clients share the cores

    with ThreadPoolExecutor(CLIENTS) as clients:
        for asking in [clients.submit(client) for _ in range(CLIENTS)]:
            asking.result()
    return ids


def waits(stack: Stack, ids: Sequence[str]) -> list[float]:
    ledger = Ledger(f"sqlite:///{stack.folder}/data/kinora.db")
    query = sa.select(tasks.c.started_at - tasks.c.created_at).where(tasks.c.task_id.in_(ids))
    try:
        with ledger.database.connect() as connection:
            return list(connection.execute(query).scalars())
    finally:
        ledger.close()
