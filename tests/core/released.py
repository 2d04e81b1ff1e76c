"""What each released version wrote into a ledger, and what must be read of it by now.

tests/core/ledgers/NNNN.json has all rows of one ledger, and says in "how" what wrote it. A text in it may hold "@N.",
the N-th of its ids, or be "=N", the N-th of the values that it shares.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext

from core.db.tables import metadata

LEDGERS = Path(__file__).parent / "ledgers"
VERSIONS = sorted(path.stem for path in LEDGERS.glob("*.json"))

Row = dict[str, Any]
Tables = dict[str, list[Row]]

# By hand, and not by what the migrations do: what a table or a column is called by now.
RENAMED = {
    "speeds": "step_durations",
    "tallies": "counters",
    "verb": "kind",
    "not_before": "ready_at",
    "front": "render_seconds",
}
NEW_IN_TASKS = {
    "owner": "",
    "callback_url": None,
    "callback_events": [],
    "stored_bytes": 0,
    "dialect": "kinora",
    "remixed_from": None,
    "extended_from": None,
    "deleted_at": None,
    "kind": "clip",
    "retried_from": None,
}
NEW_IN_STEPS = {
    "size": "",
    "work": 0.0,
    "receipt": None,
    "reserved_weight": 0.0,
    "essential": True,
    "error_code": None,
    "error_message": None,
    "rest_seconds": 0.0,
    "rested_at": None,
    "content_key": None,
    "checkpoint": None,
    "cost": None,
    "max_attempts": None,
}
NOT_KEPT = {
    "tasks": ("artifacts", "input_key", "input_sha256"),
    "steps": ("artifacts", "queued_at"),
}
OPEN = ("queued", "started")
# Afterwards their migration was changed: a move must not wait for an endpoint's removal.
DELIVERIES_REFERRED_TO_ENDPOINTS = ("0003", "0004")


class Released:
    """A ledger as a released version wrote it."""

    def __init__(self, version: str) -> None:
        self.version = version
        text = (LEDGERS / f"{version}.json").read_text()
        ids = json.loads(text)["ids"]
        found = json.loads(re.sub(r"@(\d+)\.", lambda at: ids[int(at[1])], text))
        self.named: dict[str, str] = found["named"]
        """The ids of its tasks, by what became of them."""
        self.asked: dict[str, dict[str, Any]] = found["asked"]
        """What was asked for, by idempotency key."""
        self.tables: Tables = {
            name: [dict(zip(columns, _expanded(row, found["shared"]), strict=True)) for row in rows]
            for name, (columns, *rows) in found["tables"].items()
        }

    def change_tables(self, engine: sa.Engine) -> None:
        """Make the tables as this version did, if its migration was changed afterwards."""
        if self.version not in DELIVERIES_REFERRED_TO_ENDPOINTS:
            return
        name, columns = "fk_deliveries_endpoint_id", ["endpoint_id"]
        with engine.begin() as connection:
            operations = Operations(MigrationContext.configure(connection))
            with operations.batch_alter_table("deliveries") as deliveries:
                deliveries.create_foreign_key(name, "endpoints", columns, columns, ondelete="SET NULL")

    def insert(self, engine: sa.Engine) -> None:
        """Write all rows into a database whose tables are of this version."""
        tables = sa.MetaData()
        tables.reflect(engine)
        with engine.begin() as connection:
            for table in tables.sorted_tables:
                for column in table.columns:
                    if isinstance(column.type, sa.JSON):
                        column.type.none_as_null = True
                if rows := self.tables.get(table.name):
                    connection.execute(table.delete())  # what the migrations themselves wrote
                    connection.execute(table.insert(), rows)
            if engine.dialect.name == "postgresql":
                last = "SELECT setval('events_event_id_seq', (SELECT max(event_id) FROM events))"
                connection.execute(sa.text(last))

    def expected(self) -> Tables:
        """Return what the rows must be by now, without the columns of which nothing can be said beforehand."""
        tables: Tables = {
            RENAMED.get(name, name): [{RENAMED.get(column, column): row[column] for column in row} for row in rows]
            for name, rows in self.tables.items()
            if name != "ledger"
        }
        if "inputs" not in tables:
            tables["inputs"] = list(map(_input_of, tables["tasks"]))
            tables["artifacts"] = [row for step in tables["steps"] for row in _artifacts_of(step)]
        engines = {row["task_id"]: row["engine"] for row in tables["tasks"]}
        for row in tables["tasks"]:
            _complete(row, NEW_IN_TASKS | self._said_by_steps(row["task_id"]), NOT_KEPT["tasks"])
        for row in tables["steps"]:
            engine = engines[row["task_id"]] if row["kind"] == "clip" else None
            own = {"name": str(row["position"]), "weight": row.get("work", 0.0) + 1, "engine": engine}
            _complete(row, NEW_IN_STEPS | own, NOT_KEPT["steps"])
            if self.version < "0010" and row["status"] in OPEN:  # it held the whole clip
                del row["params"]
        for row in tables["workers"]:
            _complete(row, {"gpu": None})
        tables["step_durations"] = self._durations(tables.get("step_durations", []))
        return tables

    def _said_by_steps(self, task_id: str) -> Row:
        """Return what a task's steps say of it: the last one made its result."""
        its = [row for row in self.tables["steps"] if row["task_id"] == task_id]
        starts = [row["started_at"] for row in its if row["started_at"] is not None]
        last = max(its, key=lambda row: row["position"])
        return {"result_step": last["step_id"], "claimed_at": max(starts, default=None)}

    def _durations(self, rows: list[Row]) -> list[Row]:
        for row in rows:
            _complete(row, {"render_seconds": row["seconds"]})
        is_by_engine = self.version >= "0012"  # before, even of what needs none: that is measured anew
        return [row for row in rows if is_by_engine or row["kind"] == "clip"]


def _expanded(row: list[Any], shared: list[Any]) -> Iterator[Any]:
    for cell in row:
        yield shared[int(cell[1:])] if isinstance(cell, str) and cell.startswith("=") else cell


def _complete(row: Row, new: Row, not_kept: tuple[str, ...] = ()) -> None:
    row.update(new | row)
    for name in not_kept:
        row.pop(name, None)


def _input_of(task: Row) -> Row:
    role = "picture" if task["params"].get("continues") is None else "video"
    own = {"key": task["input_key"], "sha256": task["input_sha256"], "media_type": ""}
    return {"task_id": task["task_id"], "role": role} | own


def _artifacts_of(step: Row) -> list[Row]:
    return [
        {
            "step_id": step["step_id"],
            "name": "continuity" if name == "after" else name,
            "key": key,
            "bytes": None,
            "sha256": None,
        }
        for name, key in step["artifacts"].items()
    ]


def rows_of(engine: sa.Engine, like: Tables) -> Tables:
    """Return what stands in the tables of `like`, in the order of its rows and in the columns that they have."""
    found: Tables = {}
    with engine.connect() as connection:
        for name, expected in like.items():
            columns = {row_id(name, row): list(row) for row in expected}
            places = {each: place for place, each in enumerate(columns)}
            rows = list(map(dict, connection.execute(sa.select(metadata.tables[name])).mappings()))
            rows.sort(key=lambda row: places.get(row_id(name, row), len(places)))
            found[name] = [{column: row[column] for column in columns.get(row_id(name, row), row)} for row in rows]
    return found


def row_id(table: str, row: Row) -> tuple[Any, ...]:
    """Return the row's primary key."""
    return tuple(row[column.name] for column in metadata.tables[table].primary_key)
