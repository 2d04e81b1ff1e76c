"""Writes the ledger of the version that the code is of: python -m tests.core.write_ledger COMMIT

To be run with the last code of a version, before a newer migration is added. The same on each machine and each day:
ids, secrets and the clock are counted.
"""

import hashlib
import io
import itertools
import json
import re
import secrets
import sys
import tempfile
from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import uuid_utils
from sqlalchemy.ext.compiler import compiles

from app.intake.source import SentPicture
from app.intake.submission import Submission
from core.config.settings import Settings
from core.db.database import newest_version
from core.db.tables import metadata, now
from core.engines.known import find_engine
from core.ids import new_id
from core.ledger.moves import Ledger
from core.ledger.workers import Worker
from core.plan.clip import clip_graph
from core.plan.content_key import content_keys
from core.requests.clip import ClipRequest
from core.requests.resolve import resolve
from core.storage import artifact_key, input_key
from core.task import (
    Artifact,
    Callback,
    Claim,
    Dialect,
    ErrorInfo,
    FinishedStep,
    IdempotencyKey,
    Input,
    NewStep,
    NewTask,
)

LEDGERS = Path(__file__).parent / "ledgers"
SETTINGS = Settings(_env_file=None)
TOLD = "https://told.example/hook?a=1"
EVENTS = ["task.finished", "task.failed", "task.canceled", "task.started", "task.progress"]
SHOWN = ("video", "thumbnail", "spritesheet")
SUFFIXES = {"video": "mp4", "thumbnail": "jpg", "spritesheet": "jpg", "continuity": "png"}
NO_MEMORY = ErrorInfo("out_of_memory", "the GPU's memory ran out")
BROKEN = ErrorInfo("encoding_failed", "x264 said no")
COLOURS = {"colours": {"mean": [1.0], "deviation": [2.0]}}
LONG = {"num_frames": 45}
SMOOTH = {"smooth_fps": 30}
PREVIEW = {"engine": "preview"}
ID = "[0-9a-f]{12}7[0-9a-f]{3}8[0-9a-f]{15}"


class Counted:
    """The time, ids and secrets: each of them is counted."""

    def __init__(self) -> None:
        self.seconds, self.number = 1_750_000_000.0, itertools.count(1)
        compiles(now, "sqlite")(lambda *_, **__: "counted_now()")
        sa.event.listen(sa.Engine, "connect", self._connected)
        uuid_utils.uuid7 = self.uuid7  # type: ignore[assignment]  # counted ids
        secrets.token_hex = lambda n=32: f"{next(self.number):02x}" * n
        secrets.token_bytes = lambda n=32: bytes([next(self.number)]) * n
        secrets.token_urlsafe = lambda n=32: f"token{next(self.number)}".ljust(43, "x")

    def _connected(self, connection: Any, _record: object) -> None:
        connection.create_function("counted_now", 0, lambda: self.seconds)

    def uuid7(self) -> Any:
        number = next(self.number)
        return type("Id", (), {"hex": f"{int(self.seconds * 1000):012x}7{number:03x}8{number:015x}"})


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Writer:
    """Brings tasks into every state."""

    def __init__(self, ledger: Ledger, counted: Counted) -> None:
        self.ledger, self.counted = ledger, counted
        self.named: dict[str, str] = {}
        self.asked: dict[str, dict[str, Any]] = {}
        self.owner = ledger.keys.create("first")[0].key_id

    # --- moves ---

    def create(
        self,
        name: str,
        asked: dict[str, Any] | None = None,
        key: str | None = None,
        told: list[str] | None = None,
        continues: int | None = None,
        steps: list[NewStep] | None = None,
        **more: Any,
    ) -> str:
        """Record a task of one clip; `asked` is what its request says. Returns its id."""
        self.counted.seconds += 1
        request = ClipRequest(**{"engine": "svd-xt", "seed": 7} | (asked or {}))
        engine = find_engine(request.engine or "", SETTINGS)
        clip, warnings = resolve(request, engine, SETTINGS, continues)
        graph = clip_graph(clip, engine, "cpu", SETTINGS)
        task_id = new_id()
        role, media_type = ("picture", "image/jpeg") if continues is None else ("video", "video/mp4")
        planned: dict[str, Any] = {
            "steps": steps or graph.new_steps(content_keys(graph, {role: digest(name)}, SETTINGS)),
            "result_step": graph.result_step if steps is None else steps[0].name,
        }
        callback = Callback(TOLD, told) if told else None
        task = NewTask(
            task_id=task_id,
            owner=self.owner,
            engine=engine.name,
            warnings=warnings,
            params=clip.model_dump(exclude_none=True),
            inputs=[Input(role, input_key(task_id, role), digest(name), media_type)],
            stored_bytes=1000,
            callback=callback,
            **planned | more,
        )
        self.ledger.create(task, self.key(key, request, callback) if key else None)
        self.named[name] = task_id
        return task_id

    def key(self, text: str, request: ClipRequest, callback: Callback | None) -> IdempotencyKey:
        """Return the key `text` of a request that sent b"picture"."""
        told = callback and [callback.url, callback.events]
        self.asked[text] = {"request": request.model_dump(exclude_none=True), "callback": told}
        sent = Submission(SentPicture(io.BytesIO(b"picture"), "file"), request, callback=callback)
        return IdempotencyKey(self.owner, text, sent.fingerprint)

    def claim(self, task_id: str, position: int = 0, lease: float = 10.0) -> Claim:
        self.counted.seconds += 1
        step = self.ledger.task_with_steps(task_id)[1][position]
        claim = self.ledger.claim(step.step_id, f"worker-{step.queue}", lease)
        assert claim is not None, (task_id, position)
        return claim

    def run(self, task_id: str, position: int = 0, progress: int = 30, phase: str = "render") -> Claim:
        claim = self.claim(task_id, position)
        self.ledger.renew(claim, 10.0, progress, phase)
        return claim

    def do(
        self, task_id: str, position: int = 0, made: Collection[str] = ("video",), said: Any = None, **more: Any
    ) -> None:
        """Have a step done, with these artifacts; its receipt has `said`, too."""
        claim = self.claim(task_id, position)
        self.counted.seconds += 2
        step = claim.step
        keys = {name: artifact_key(task_id, step.step_id, step.attempt, f"{name}.{SUFFIXES[name]}") for name in made}
        artifacts = [Artifact(name, key, 1000 + len(name), digest(key)) for name, key in keys.items()]
        receipt = {"engine": claim.task.engine, "seed": 7, "output_sha256": digest(step.step_id)}
        receipt |= {"parameters": {"seed": 7, "quality": 18}, "seconds": {"render": 1.5}} | (said or {})
        phases = {"render": 1.5, "store": 0.25}
        assert self.ledger.finish(claim, artifacts, receipt, phases, stored_bytes=1005, **more) is not None

    def do_parts(self, task_id: str, count: int) -> None:
        """Have the first `count` parts of a clip done."""
        for position in range(count):
            self.do(task_id, position, ("video", "continuity"), COLOURS)

    def lose(self, task_id: str, position: int = 0) -> None:
        """Lose an attempt, and let the step rest until another may begin."""
        self.ledger.lose(self.claim(task_id, position), NO_MEMORY, 3)
        for rest in self.ledger.rests():
            self.ledger.end_rest(rest)

    # --- tasks in every state ---

    def write(self) -> None:
        self.write_others()
        self.write_ended()
        self.write_deliveries()
        self.write_extended()
        self.write_parts()
        self.write_smoothed()
        self.write_graphs()
        self.write_open()

    def write_others(self) -> None:
        """Keys, workers, keepers, endpoints."""
        ledger = self.ledger
        ledger.keys.create("second", admin=True)
        ledger.keys.revoke("second")
        gpu = "00000000-0000-0000-0000-000000000000"
        for queue, device, uuid, engines in (("gpu", "cuda:0", gpu, ("svd-xt", "svd")), ("cpu", "cpu", None, PREVIEW)):
            said = {name: {"ready": True, "loading": False, "reason": None} for name in engines}
            of_worker: dict[str, Any] = {"worker_id": f"worker-{queue}", "queue": queue}
            of_worker |= {"host": "host", "machine": "machine", "pid": 1}
            of_worker |= {"device": device, "engines": said, "step_id": None, "metrics_port": 9100, "gpu": uuid}
            ledger.report_worker(Worker(**of_worker, started_at=0.0, seen_at=0.0, alive=True))
        ledger.report_keeper("keeper-1")
        ledger.endpoints.register(self.owner, "https://endpoint.example/told", ["task.failed"])
        ledger.endpoints.register(self.owner, "https://gone.example/told", ["task.canceled"])
        ledger.endpoints.secret(self.owner)

    def write_ended(self) -> None:
        ledger = self.ledger
        cost = {"amount": 0.25, "currency": "EUR"}
        asked = {"prompt": "a cat", "quality": 18, "fps": 7, "width": 1024, "height": 576, "num_frames": 25}
        task_id = self.create("finished", asked, key="key of finished", told=EVENTS)
        self.do(task_id, made=SHOWN, warnings=["it took less memory"], cost=cost)
        task_id = self.create("finished at the second attempt", PREVIEW)
        self.lose(task_id)
        self.do(task_id, made=SHOWN)
        ledger.fail(self.claim(self.create("failed", PREVIEW, told=EVENTS)), BROKEN)
        task_id = self.create("exhausted", PREVIEW, key="key of exhausted")
        for _ in range(3):
            self.lose(task_id)
        ledger.cancel(self.create("canceled", PREVIEW, told=EVENTS))
        self.run(self.create("canceled while started", PREVIEW))
        ledger.cancel(self.named["canceled while started"])
        for name, mark in (("expired", ledger.mark_expired), ("deleted", ledger.mark_deleted)):
            self.do(self.create(name, PREVIEW), made=SHOWN)
            mark(self.named[name])

    def write_deliveries(self) -> None:
        """One has arrived, one was missed, one is not wanted any more, one is being tried; others wait."""
        deliveries = self.ledger.deliveries
        self.counted.seconds += 1

        def take(event: str, host: str) -> Any:
            found = next(each for each in deliveries.due(100) if (each.event, each.host) == (event, host))
            return deliveries.take(found.delivery_id)

        deliveries.arrived(take("task.finished", "told.example"), 204)
        deliveries.missed(take("task.failed", "told.example"), 503, "it answered 503", 0.5)
        deliveries.gone(take("task.canceled", "gone.example"), 410, "it wants no more")
        take("task.failed", "endpoint.example")

    def write_extended(self) -> None:
        parent = self.named["finished"]
        lineage: dict[str, Any] = {"continues": 25, "extended_from": parent}
        self.do(self.create("remixed", remixed_from=parent, dialect=Dialect.OPENAI), made=SHOWN)
        task_id = self.create("extended", told=["task.finished"], dialect=Dialect.REPLICATE, **lineage)
        self.do(task_id)
        self.do(task_id, 1, SHOWN)
        self.do(self.create("extended, its clip finished", **lineage))
        self.run(self.create("extended, its clip started", **lineage))
        task_id = self.create("extended, failed at the join", **lineage)
        self.do(task_id)
        self.ledger.fail(self.claim(task_id, 1), BROKEN)
        task_id = self.create("extended, its join started", {"num_inference_steps": 10}, **lineage)
        self.do(task_id)
        self.lose(task_id, 1)
        self.run(task_id, 1, phase="join")

    def write_parts(self) -> None:
        task_id = self.create("in parts, the second started", LONG)
        self.do_parts(task_id, 1)
        self.run(task_id, 1)
        self.do_parts(self.create("in parts, two of three finished", {"num_frames": 60}), 2)
        task_id = self.create("in parts, finished", LONG)
        self.do_parts(task_id, 1)
        self.do(task_id, 1)
        self.do(task_id, 2, SHOWN)
        self.do_parts(self.create("extended in parts", LONG, continues=25, extended_from=self.named["finished"]), 1)
        for name in ("in parts, canceled", "in parts, failed"):
            self.do_parts(self.create(name, LONG), 1)
        self.claim(self.named["in parts, canceled"], 1)
        self.ledger.cancel(self.named["in parts, canceled"])
        self.ledger.fail(self.claim(self.named["in parts, failed"], 1), BROKEN)

    def write_smoothed(self) -> None:
        for name in ("smoothed, finished", "smoothed, started", "smoothed, its clip finished"):
            self.do(self.create(name, SMOOTH))
        self.do(self.named["smoothed, finished"], 1, SHOWN, {"smoothing": {"method": "flow"}})
        self.run(self.named["smoothed, started"], 1, phase="smooth")
        lineage: dict[str, Any] = {"continues": 100, "extended_from": self.named["smoothed, finished"]}
        self.do(self.create("smoothed and extended", SMOOTH, **lineage))
        self.do_parts(self.create("smoothed and extended in parts", LONG | SMOOTH, **lineage), 1)
        task_id = self.create("smoothed and in parts", LONG | SMOOTH)
        self.do_parts(task_id, 1)
        self.do(task_id, 1)
        self.do(task_id, 2)

    def write_graphs(self) -> None:
        """Of other shapes than a clip's own."""
        (clip,) = self.steps_of(PREVIEW)
        others = [replace(clip, name=name, content_key=None, essential=False) for name in ("b", "c")]
        steps = [replace(clip, name="a"), others[0], replace(others[1], needs=("b",))]
        task_id = self.create("of which one step failed", PREVIEW, steps=steps)
        self.ledger.fail(self.claim(task_id, 1), BROKEN)
        self.run(task_id)
        steps = [replace(clip, name="plan", weight=1.0, reserved_weight=2.0)]
        task_id = self.create("planned as it ran", PREVIEW, steps=steps)
        more = [replace(clip, name=name, content_key=None, needs=("plan",)) for name in ("x", "y")]
        self.do(task_id, more=more, result_step="x")
        self.do(task_id, 1, SHOWN)
        clip, join = self.steps_of({"engine": "svd-xt"}, continues=25)
        made = Artifact("video", "tasks/reused/video.mp4", 7, digest("reused"))
        finished = FinishedStep((made,), {"engine": "svd-xt", "seed": 7, "reused_from": self.named["finished"]})
        lineage: dict[str, Any] = {"continues": 25, "extended_from": self.named["finished"], "result_step": "join"}
        lineage["retried_from"] = self.named["extended, failed at the join"]
        self.create("retried, its clip taken over", steps=[replace(clip, finished=finished), join], **lineage)

    def steps_of(self, asked: dict[str, Any], continues: int | None = None) -> list[NewStep]:
        """Return the steps of a clip as the ledger records them."""
        engine = find_engine(asked["engine"], SETTINGS)
        clip, _ = resolve(ClipRequest(seed=7, **asked), engine, SETTINGS, continues)
        return clip_graph(clip, engine, "cpu", SETTINGS).new_steps()

    def write_open(self) -> None:
        ledger = self.ledger
        (clip,) = self.steps_of({"engine": "svd-xt"})
        claim = self.claim(self.create("with a checkpoint", steps=[replace(clip, max_attempts=5)]))
        ledger.checkpoint(claim, {"token": "abc"})
        ledger.lose(claim, NO_MEMORY, 3)
        ledger.give_back(self.claim(self.create("given back", PREVIEW)))
        task_id = self.create("started", key="key of started", told=["task.started", "task.finished"])
        self.lose(task_id)
        self.run(task_id)
        self.claim(self.create("started, with a lease that holds", PREVIEW), lease=3e9)
        self.create("queued", key="key of queued", told=["task.finished"])
        self.create("queued, preview", PREVIEW)
        ledger.lose(self.claim(self.create("rests", PREVIEW)), NO_MEMORY, 3, 60.0)


def dumps(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def dump(ledger: Ledger, writer: Writer, how: str) -> str:
    """Return all rows as tests/core/released.py reads them."""
    with ledger.database.connect() as connection:
        tables = {table.name: connection.execute(sa.select(table)).all() for table in metadata.sorted_tables}
    seen = Counter(dumps(value) for rows in tables.values() for row in rows for value in row)
    shared = [text for text, count in seen.items() if count > 1 and len(text) > 10 and text[0] in '"[{']
    shared = [text for text in shared if not re.fullmatch(f'"{ID}"', text)]
    place = {text: f'"={number}"' for number, text in enumerate(shared)}
    lines = []
    for name, rows in tables.items():
        cells = [[place.get(dumps(value), dumps(value)) for value in row] for row in rows]
        listed = [dumps(list(metadata.tables[name].columns.keys())), *(f"[{','.join(row)}]" for row in cells)]
        lines.append(f'"{name}":[' + ",\n".join(listed) + "]")
    body = '"shared":[\n' + ",\n".join(shared) + "],\n"
    body += (
        f'"named":{dumps(writer.named)},\n"asked":{dumps(writer.asked)},\n"tables":{{\n' + ",\n".join(lines) + "}}\n"
    )
    ids = sorted(set(re.findall(ID, body)))
    for number, each in enumerate(ids):
        body = body.replace(each, f"@{number}.")
    return f'{{"how":{dumps(how)},\n"ids":{dumps(ids)},\n{body}'


def main(commit: str) -> None:
    counted = Counted()
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(f"sqlite:///{folder}/kinora.db")
        ledger.migrate()
        writer = Writer(ledger, counted)
        writer.write()
        how = f"written by the code of commit {commit[:12]}, by tests/core/write_ledger.py"
        (LEDGERS / f"{newest_version()}.json").write_text(dump(ledger, writer, how))
        ledger.close()


if __name__ == "__main__":
    main(sys.argv[1])
