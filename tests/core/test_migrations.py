"""Databases of earlier versions: what stands in them goes on."""

from typing import Any, cast

import pytest
import sqlalchemy as sa
from alembic import command, config

from core.config.settings import Settings
from core.db import database
from core.engines.known import find_engine
from core.errors import LedgerTooNew
from core.ledger.durations import StepDuration, StepProfile
from core.ledger.moves import Ledger
from core.plan.clip import clip_graph
from core.plan.steps import PARAMS, RenderClip
from core.requests.clip import Clip, ClipRequest
from core.requests.resolve import resolve

SETTINGS = Settings(_env_file=None)
TASK_ID = "a" * 32
ENGINE = find_engine("svd-xt", SETTINGS)


def migrate_to(url: str, revision: str) -> sa.Engine:
    """Return the database at `url` with the tables of a released version."""
    engine = database.connect(url)
    with database.writing(engine) as connection:
        settings = config.Config()
        settings.set_main_option("script_location", str(database.MIGRATIONS))
        settings.attributes["connection"] = connection
        command.upgrade(settings, revision)
    return engine


def insert(connection: sa.Connection, table: str, **values: Any) -> None:
    found = sa.Table(table, sa.MetaData(), autoload_with=connection)
    connection.execute(found.insert().values(values))


def add_task(engine: sa.Engine, clip: Clip, status: str = "queued") -> None:
    """Record `clip` as version 0009 did: each step holds all of it."""
    with engine.begin() as connection:
        insert(
            connection,
            "tasks",
            task_id=TASK_ID,
            status="queued",
            engine=clip.engine,
            params=clip.model_dump(exclude_none=True),
            input_key="tasks/t/input",
            input_sha256="0" * 64,
            warnings=[],
            artifacts={},
            created_at=0.0,
        )
        planned = clip_graph(clip, ENGINE, "cpu", SETTINGS).steps
        ids = {step.name: f"{position:032}" for position, step in enumerate(planned)}
        renders = [step for step in planned if step.params.kind == "clip"]
        for position, step in enumerate(planned):
            held = clip.model_dump() | {"part": None}
            if step in renders and len(renders) > 1:
                held |= cast(RenderClip, step.params).settings.model_dump()
                adds = cast(RenderClip, step.params).adds
                held["part"] = {"number": renders.index(step), "of": len(renders), "num_frames": adds}
            if step.name == "join-parts" and clip.smooth_fps:
                held["continues"] = None
            insert(
                connection,
                "steps",
                step_id=ids[step.name],
                task_id=TASK_ID,
                position=position,
                verb=step.params.kind,
                queue=step.queue,
                status=status,
                attempt=0,
                params=held,
                waits_for=len(step.needs),
                progress=0,
                queued_at=0.0,
                not_before=0.0,
                artifacts={},
            )
            insert(connection, "attempts", step_id=ids[step.name], attempt=1, worker_id="w", started_at=0.0)
            for name in step.needs:
                insert(connection, "needs", step_id=ids[step.name], needed_id=ids[name])


@pytest.mark.parametrize("status", ["queued", "started"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"fps": 7, "smooth_fps": 30},
        {"continues": 100},
        {"continues": 100, "fps": 7, "smooth_fps": 30},
        {"num_frames": 60},
        {"num_frames": 60, "continues": 100},
        {"num_frames": 60, "fps": 7, "smooth_fps": 30, "continues": 100},
    ],
)
def test_steps_that_held_a_whole_clip_know_what_they_do(
    empty_database_url: str, changes: dict[str, int], status: str
) -> None:
    clip, _ = resolve(ClipRequest(seed=7), ENGINE, SETTINGS)
    clip = clip.model_copy(update=changes)
    engine = migrate_to(empty_database_url, "0009")
    add_task(engine, clip, status)
    engine.dispose()
    ledger = Ledger(empty_database_url)
    ledger.migrate()
    _, steps = ledger.task_with_steps(TASK_ID)
    with ledger.database.connect() as connection:
        edges = connection.execute(sa.text("SELECT count(*) FROM needs")).scalar_one()
        tried = connection.execute(sa.text("SELECT count(*) FROM attempts")).scalar_one()
    ledger.close()
    assert (edges, tried) == (
        sum(len(step.needs) for step in clip_graph(clip, ENGINE, "cpu", SETTINGS).steps),
        len(steps),
    )
    assert [PARAMS.validate_python(step.params) for step in steps] == [
        step.params for step in clip_graph(clip, ENGINE, "cpu", SETTINGS).steps
    ]


def test_steps_that_are_done_stay_as_they_were(empty_database_url: str) -> None:
    clip, _ = resolve(ClipRequest(seed=7), ENGINE, SETTINGS)
    engine = migrate_to(empty_database_url, "0009")
    add_task(engine, clip, "finished")
    engine.dispose()
    ledger = Ledger(empty_database_url)
    ledger.migrate()
    _, (step,) = ledger.task_with_steps(TASK_ID)
    ledger.close()
    assert step.params == clip.model_dump() | {"part": None}


def test_a_database_without_tables_gets_all_of_them(empty_database_url: str) -> None:
    engine = database.connect(empty_database_url)
    with database.reading(engine) as connection:
        assert database.version(connection) is None
    database.migrate(engine)
    with database.reading(engine) as connection:
        assert database.version(connection) == database.newest_version()
    engine.dispose()


def test_measured_durations_and_counters_stay(empty_database_url: str) -> None:
    engine = migrate_to(empty_database_url, "0009")
    with engine.begin() as connection:
        insert(
            connection,
            "speeds",
            **{"engine": "svd", "verb": "clip", "size": "s", "work": 1.0, "count": 3, "seconds": 9.0, "front": 7.0},
        )
        insert(connection, "tallies", name="tasks_created", engine="svd", bound="", count=4, total=0.0)
    engine.dispose()
    ledger = Ledger(empty_database_url)
    ledger.migrate()
    assert ledger.step_durations().of(StepProfile("svd", "clip", "s", 1.0)) == StepDuration(7.0, 2.0)
    assert ledger.counters() == {("tasks_created", "svd"): 4}
    ledger.close()


def test_steps_that_wait_keep_their_tasks_turns(empty_database_url: str) -> None:
    engine = migrate_to(empty_database_url, "0016")
    turns = {"a": (1.0, 4.0), "b": (2.0, None), "c": (3.0, 3.5)}
    with engine.begin() as connection:
        for letter, (created_at, claimed_at) in turns.items():
            times: dict[str, Any] = {"created_at": created_at, "claimed_at": claimed_at}
            task = {"task_id": letter * 32, "status": "queued", "engine": "svd", "params": {}, "warnings": []}
            insert(connection, "tasks", **task, **times)
            step = {"step_id": letter * 32, "task_id": letter * 32, "position": 0, "kind": "clip", "queue": "cpu"}
            state = {"status": "queued", "attempt": 0, "waits_for": 0, "progress": 0, "ready_at": created_at}
            insert(connection, "steps", **step, **state, params={})
    engine.dispose()
    ledger = Ledger(empty_database_url)
    ledger.migrate()
    claims = [ledger.claim_next("cpu", "w", 60) for _ in turns]
    ledger.close()
    assert [claim.task.task_id[0] for claim in claims if claim] == ["b", "c", "a"]


def set_version(engine: sa.Engine, version: str, lowest_reader: str) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text(f"UPDATE alembic_version SET version_num = '{version}'"))
        connection.execute(sa.text(f"UPDATE ledger SET lowest_reader = '{lowest_reader}'"))


def test_an_older_program_reads_a_newer_ledger_only_if_the_ledger_lets_it(database_url: str) -> None:
    ledger, newest = Ledger(database_url), database.newest_version()
    try:
        set_version(ledger.database, "9998", newest)
        ledger.migrate()
        ledger.check_version()
        assert ledger.tasks(limit=1) == []
        set_version(ledger.database, "9999", "9999")
        for refused in (ledger.migrate, ledger.check_version):
            with pytest.raises(LedgerTooNew, match=f"of version 9999, and this program knows {newest}: update it"):
                refused()
    finally:
        set_version(ledger.database, newest, newest)
        ledger.close()
