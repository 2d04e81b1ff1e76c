"""Ledgers that each released version wrote, with tasks in every state: they migrate, read the same and go on."""

import io
import json
from collections.abc import Iterator, Mapping
from contextlib import closing
from functools import cache
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from app.intake.accept import accept
from app.intake.retry import retry_task
from app.intake.source import Extension, SentPicture
from app.intake.submission import Submission
from app.services import Caller, Services
from core.config.settings import Settings
from core.db.database import newest_version
from core.db.tables import metadata
from core.engines.known import find_engine
from core.errors import TaskExists
from core.ledger.moves import Ledger
from core.plan.clip import clip_graph
from core.plan.steps import PARAMS, JoinClips, RenderClip
from core.queue import StepQueue
from core.requests.clip import Clip, ClipRequest
from core.status import Status
from core.storage import Storage
from core.task import Artifact, Callback, Claim, IdempotencyKey, Task
from harness.servers import RedisServer
from harness.stack import ROOT
from keeper.leases import Leases
from tests.conftest import artifacts_at, new_task
from tests.core.released import OPEN, VERSIONS, Released, Row, rows_of
from tests.core.test_migrations import migrate_to

QUEUES = ("gpu", "cpu")
MIGRATIONS = ROOT / "core/db/migrations/versions"
RAISE_LOWEST_READER = [path.stem[:4] for path in MIGRATIONS.glob("*.py") if "lowest_reader" in path.read_text()]
SIDE_BY_SIDE = [version for version in VERSIONS if version >= max(RAISE_LOWEST_READER)]
"""Of which a process may still run while the tables are of the newest; none only if that is what raised the lowest
reader."""
assert SIDE_BY_SIDE or max(RAISE_LOWEST_READER) == newest_version()
MAX_ATTEMPTS = 3


@pytest.fixture(params=VERSIONS)
def released(request: pytest.FixtureRequest) -> Released:
    return Released(request.param)


@pytest.fixture
def services(
    released: Released, empty_database_url: str, tmp_path: Path, redis_server: RedisServer
) -> Iterator[Services]:
    """The services at the ledger that a released version wrote, migrated."""
    engine = migrate_to(empty_database_url, released.version)
    try:
        released.change_tables(engine)
        released.insert(engine)
    finally:
        engine.dispose()
    with closing(Ledger(empty_database_url)) as ledger:
        ledger.migrate()
        yield services_at(ledger, tmp_path, redis_server)


def services_at(ledger: Ledger, folder: Path, redis_server: RedisServer) -> Services:
    settings = Settings(_env_file=None, data_dir=folder, redis_port=redis_server.port, max_waiting_per_key=0)
    return Services(settings, ledger, Storage(f"file://{folder}/storage"), StepQueue(settings))


@pytest.fixture
def new_database_url(request: pytest.FixtureRequest, empty_database_url: str) -> str:
    """A database on the same backend, whose tables were made by the newest version."""
    if empty_database_url.startswith("sqlite"):
        return f"sqlite:///{request.getfixturevalue('migrated_file')}"
    return str(request.getfixturevalue("migrated_postgres_url"))


def test_there_is_a_ledger_of_each_released_version() -> None:
    """Of the version before, tests/core/write_ledger.py writes it when a migration is added."""
    newest = int(newest_version())
    assert VERSIONS in ([f"{number:04}" for number in range(1, last + 1)] for last in (newest - 1, newest))


def test_a_released_ledger_migrates_and_goes_on(
    released: Released, services: Services, new_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_schema(services.ledger.database, new_database_url)
    check_ledger(released, services, monkeypatch)


@pytest.mark.parametrize("version", SIDE_BY_SIDE)
def test_what_a_process_of_an_older_version_writes_beside_this_one_is_served(
    version: str, ledger: Ledger, tmp_path: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    (released := Released(version)).insert(ledger.database)
    check_ledger(released, services_at(ledger, tmp_path, redis_server), monkeypatch)


def check_ledger(released: Released, services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """All rows are there and read as they were written, and all that is open is worked off."""
    ledger = services.ledger
    check_rows(released, ledger.database)
    check_tasks(released, ledger)
    check_open_steps(released, services)
    check_keys(released, ledger)
    check_deliveries(released, ledger)
    fill_storage(released, services)
    made = retry_all(released, services) | extend_all(released, services)
    take_over_dead(released, ledger, monkeypatch)
    serve_all(ledger)
    check_ends(released, ledger, made)


def check_schema(engine: sa.Engine, new_database_url: str) -> None:
    """The tables are those that the code uses, and those of a database that is new."""
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    assert schema_of(engine) == schema_at(new_database_url)


@cache
def schema_at(url: str) -> dict[str, set[str]]:
    with closing(Ledger(url)) as new:
        return schema_of(new.database)


def schema_of(engine: sa.Engine) -> dict[str, set[str]]:
    """Return what each table has: columns, keys, indexes, constraints."""
    asked = sa.inspect(engine)
    look_up = (
        *(asked.get_columns, asked.get_indexes, asked.get_foreign_keys),
        *(asked.get_unique_constraints, asked.get_check_constraints),
    )
    return {
        table: {str(asked.get_pk_constraint(table)), *(described(found) for each in look_up for found in each(table))}
        for table in asked.get_table_names()
    }


def described(found: Mapping[str, Any]) -> str:
    """Return all that is said of an index, with the text of its condition."""
    options = {name: str(option) for name, option in found.get("dialect_options", {}).items()}
    return str({**found, "dialect_options": options})


def check_rows(released: Released, engine: sa.Engine) -> None:
    """Each row is there, and what it says is what was written."""
    expected = released.expected()
    found = rows_of(engine, expected)
    for table in expected:
        assert found[table] == expected[table], table


def check_tasks(released: Released, ledger: Ledger) -> None:
    """What the ledger's readers say of each task is what was written."""
    results = artifacts_of_results(released)
    for row in released.tables["tasks"]:
        task = ledger.task(row["task_id"])
        said = vars(task) | {"error_code": task.error and task.error.code}
        said |= {"error_message": task.error and task.error.message}
        assert {name: said[name] for name in row if name in said} == {name: row[name] for name in row if name in said}
        assert ledger.artifacts(row["task_id"]) == results[row["task_id"]]
    listed = {task.task_id for task in ledger.tasks(limit=100)}
    assert listed == {row["task_id"] for row in released.tables["tasks"] if not row.get("deleted_at")}


def artifacts_of_results(released: Released) -> dict[str, dict[str, Artifact]]:
    """Return what each task has made, by name; nothing if it has not finished."""
    results: dict[str, dict[str, Artifact]] = {}
    for task in released.tables["tasks"]:
        if "artifacts" in task:
            made = {name: Artifact(name, key, None, None) for name, key in task["artifacts"].items()}
        else:
            rows = [row for row in released.tables["artifacts"] if row["step_id"] == task["result_step"]]
            made = {row["name"]: Artifact(row["name"], row["key"], row["bytes"], row["sha256"]) for row in rows}
        results[task["task_id"]] = made if task["status"] == "finished" else {}
    return results


def check_open_steps(released: Released, services: Services) -> None:
    """Each step that is yet to be done knows what it does, as if its task were planned today."""
    for row in released.tables["tasks"]:
        task, steps = services.ledger.task_with_steps(row["task_id"])
        clip = Clip.model_validate(task.params)
        engine = find_engine(clip.engine, services.settings)
        graph = clip_graph(clip, engine, "cpu", services.settings)
        for step, planned in zip(steps, graph.steps, strict=False):
            if step.status in OPEN:
                assert PARAMS.validate_python(step.params) == planned.params
                assert (step.queue, step.engine) == (planned.queue, planned.engine)


def check_keys(released: Released, ledger: Ledger) -> None:
    """A request that is made again gives the task that it made first."""
    made = {row["key"]: row for row in released.tables.get("idempotency_keys", [])}
    assert made.keys() == released.asked.keys()
    for text, asked in released.asked.items():
        callback = Callback(*asked["callback"]) if asked["callback"] else None
        sent = Submission(
            SentPicture(io.BytesIO(b"picture"), "file"), ClipRequest(**asked["request"]), callback=callback
        )
        key = IdempotencyKey(made[text]["owner"], text, sent.fingerprint)
        assert ledger.task_made_with(key) == made[text]["task_id"]
        with pytest.raises(TaskExists):
            ledger.create(new_task(), key)


def check_deliveries(released: Released, ledger: Ledger) -> None:
    """What was pending is due, and the rest is not."""
    written = released.tables.get("deliveries", [])
    pending = {row["delivery_id"] for row in written if row["status"] == "pending"}
    assert {delivery.delivery_id for delivery in ledger.deliveries.due(limit=1000)} == pending


def fill_storage(released: Released, services: Services) -> None:
    for row in released.tables["tasks"]:
        for given in services.ledger.inputs(row["task_id"]).values():
            services.storage.put(given.key, b"an input")
        for made in services.ledger.artifacts(row["task_id"]).values():
            services.storage.put(made.key, b"an artifact")


def caller_of(task: Task) -> Caller:
    return Caller(task.owner, "", admin=False)


def retry_all(released: Released, services: Services) -> set[str]:
    """Make a task again of each kind that has ended. Returns the ids of the new tasks."""
    again = set()
    for row in ended(released):
        task = services.ledger.task(row["task_id"])
        new = services.ledger.task(retry_task(services, caller_of(task), task.task_id))
        kept = ("params", "engine", "callback_url", "callback_events", "dialect", "remixed_from", "extended_from")
        assert [getattr(new, name) for name in kept] == [getattr(task, name) for name in kept]
        (before,), (after,) = (services.ledger.inputs(each.task_id).values() for each in (task, new))
        assert (after.role, after.sha256, new.retried_from) == (before.role, before.sha256, task.task_id)
        again.add(new.task_id)
    return again


def extend_all(released: Released, services: Services) -> set[str]:
    """Let a video of each kind that is there go on. Returns the ids of the new tasks."""
    longer = set()
    for row in ended(released):
        if row["status"] == "finished" and row["expired_at"] is None:
            task = services.ledger.task(row["task_id"])
            new = services.ledger.task(accept(services, caller_of(task), Submission(Extension(task), ClipRequest())))
            frames = Clip.model_validate(task.params).frames_in_all
            assert (new.extended_from, new.params["continues"]) == (task.task_id, frames)
            assert services.ledger.inputs(new.task_id)["video"].sha256 == row["receipt"]["output_sha256"]
            longer.add(new.task_id)
    return longer


def ended(released: Released) -> list[Row]:
    """Return one task that ended in each way, and one of each clip, if they were not deleted."""
    rows = released.tables["tasks"]
    found = [row for row in rows if row["status"] not in OPEN and row.get("deleted_at") is None]
    chosen = {(row["status"], row["expired_at"] is None): row for row in found}
    chosen |= {("of", json.dumps(row["params"])): row for row in reversed(found)}
    return list({row["task_id"]: row for row in chosen.values()}.values())


def take_over_dead(released: Released, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take each started step from its worker, of which the keeper hears nothing any more."""
    seconds = count()
    monkeypatch.setattr("keeper.leases.time", SimpleNamespace(monotonic=lambda: float(next(seconds))))
    leases = Leases(lease_seconds=2.0)
    dead = [leases.dead(ledger.held_leases()) for _ in range(6)][-1]
    started = {row["step_id"] for row in released.tables["steps"] if row["status"] == "started"}
    assert {lease.step_id for lease in dead} == started
    assert all(ledger.take_over(lease, MAX_ATTEMPTS) for lease in dead)
    for rest in ledger.rests():
        ledger.end_rest(rest)


def serve_all(ledger: Ledger) -> None:
    """Do all steps that are open, as workers do."""
    needed: dict[str, set[str]] = {}
    with ledger.database.connect() as connection:
        for step_id, needed_id in connection.execute(sa.select(metadata.tables["needs"])):
            needed.setdefault(step_id, set()).add(needed_id)
    for queue in QUEUES * 10:  # what one of them made the other may wait for
        while claim := ledger.claim_next(queue, "worker-new", 10.0):
            assert {need.step.step_id for need in claim.needs} == needed.get(claim.step.step_id, set())
            assert ledger.finish(claim, artifacts_at(**made_by(claim)), {"colours": {}} | output(claim), {}) is not None
    assert ledger.open_steps() == []


def output(claim: Claim) -> dict[str, Any]:
    return {"output_sha256": claim.step.step_id, "seed": 7}


def made_by(claim: Claim) -> dict[str, str]:
    """Return what a worker makes of the step, by what it finds: names → keys."""
    params = PARAMS.validate_python(claim.step.params)
    role = params.input_role
    assert role is None or claim.inputs[role].key
    assert all(need.step.status == Status.FINISHED and "video" in need.artifacts for need in claim.needs)
    if isinstance(params, RenderClip) and params.begins_with == "part":
        (before,) = claim.needs
        assert "continuity" in before.artifacts
        assert "colours" in before.receipt
    if isinstance(params, JoinClips) and len(claim.needs) > 1:
        assert params.parameters["seed"] is not None
    continuity = ["continuity"] if isinstance(params, RenderClip) and params.continuity else []
    return {name: f"{claim.step.step_id}/{name}" for name in ["video", *continuity]}


def check_ends(released: Released, ledger: Ledger, made: set[str]) -> None:
    """All that was open has finished, but where a step had failed; what had ended is as it was."""
    failed = {row["task_id"] for row in released.tables["steps"] if row["status"] == "failed"}
    for row in released.tables["tasks"]:
        task = ledger.task(row["task_id"])
        if row["status"] in OPEN:
            assert task.status == ("failed" if task.task_id in failed else "finished")
            check_result(ledger, task)
        else:
            assert (task.status, task.finished_at) == (row["status"], row["finished_at"])
    tasks = released.tables["tasks"]
    wanted = {row["task_id"] for row in tasks if row["status"] in OPEN and row.get("callback_url")}
    assert wanted <= {each.task_id for each in ledger.deliveries.due(limit=1000) if each.event == "task.finished"}
    for task_id in made:
        assert ledger.task(task_id).status == "finished"
        check_result(ledger, ledger.task(task_id))


def check_result(ledger: Ledger, task: Task) -> None:
    """A task that has finished has what its result step made."""
    if task.status == Status.FINISHED:
        _, steps = ledger.task_with_steps(task.task_id)
        (result,) = (step for step in steps if step.step_id == task.result_step)
        assert task.receipt == result.receipt
        assert "video" in ledger.artifacts(task.task_id)
