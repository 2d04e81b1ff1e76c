"""The ledger's tables. A change here needs a migration in core/db/migrations/versions/; a test compares the two."""

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    text,
    true,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    }
)


class now(FunctionElement[float]):
    """Seconds since the epoch by the database's clock, so that hosts need not agree on the time."""

    type = Double()
    inherit_cache = True


@compiles(now, "sqlite")
def _now_sqlite(_element: now, _compiler: Any, **_: Any) -> str:
    # unixepoch('subsec') would say it shorter but needs SQLite 3.42; 2440587.5 is 1970-01-01 as a Julian day.
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(now, "postgresql")
def _now_postgresql(_element: now, _compiler: Any, **_: Any) -> str:
    # clock_timestamp() may differ from row to row, so that no index helps to compare with it.
    return "extract(epoch from statement_timestamp())::double precision"


tasks = Table(
    "tasks",
    metadata,
    Column("task_id", String(32), primary_key=True),
    Column("owner", String(64), nullable=False, server_default=""),
    Column("status", String(8), nullable=False),
    Column("engine", String(64), nullable=False),
    Column("params", JSON, nullable=False),
    Column("warnings", JSON, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("started_at", Double),
    Column("finished_at", Double),
    Column("expired_at", Double),
    Column("error_code", String(64)),
    Column("error_message", Text),
    Column("receipt", JSON),
    Column("callback_url", Text),
    Column("callback_events", JSON, nullable=False, server_default="[]"),
    Column("stored_bytes", BigInteger, nullable=False, server_default="0"),
    Column("dialect", String(16), nullable=False, server_default="kinora"),
    Column("remixed_from", String(32)),  # no foreign keys: what a task was made from may be gone
    Column("extended_from", String(32)),
    Column("deleted_at", Double),
    Column("kind", String(16), nullable=False, server_default="clip"),
    Column("retried_from", String(32)),
    Column("claimed_at", Double),  # a step of it, the last time
    Column("result_step", String(32)),  # no foreign key: the two tables would need each other
    # The ids sort by time, so one index gives a page of any status, newest first.
    Index(None, "status", "task_id"),
    Index(None, "expired_at", "finished_at"),
    # What one caller sees and has used up must cost the same however much the others have.
    Index(None, "owner", "task_id"),
    Index(None, "owner", "status", "task_id"),
    Index(None, "owner", "created_at"),
)

steps = Table(
    "steps",
    metadata,
    Column("step_id", String(32), primary_key=True),
    Column("task_id", ForeignKey("tasks.task_id", ondelete="CASCADE"), nullable=False),
    Column("position", Integer, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("queue", String(32), nullable=False),
    Column("status", String(8), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("params", JSON, nullable=False),
    Column("waits_for", Integer, nullable=False),
    Column("progress", Integer, nullable=False),
    Column("phase", String(32)),
    Column("ready_at", Double, nullable=False),
    Column("rest_seconds", Double, nullable=False, server_default="0"),  # left, as of `rested_at`
    Column("rested_at", Double),
    Column("started_at", Double),
    Column("finished_at", Double),
    Column("lease_until", Double),
    Column("worker_id", String(64)),
    Column("size", String(64), nullable=False, server_default=""),
    Column("work", Double, nullable=False, server_default="0"),
    Column("receipt", JSON),
    Column("name", String(64), nullable=False, server_default=""),
    Column("weight", Double, nullable=False, server_default="1"),
    Column("reserved_weight", Double, nullable=False, server_default="0"),
    Column("engine", String(64)),
    Column("essential", Boolean, nullable=False, server_default=true()),
    Column("error_code", String(64)),
    Column("error_message", Text),
    Column("content_key", String(64)),
    Column("checkpoint", JSON(none_as_null=True)),
    Column("cost", JSON(none_as_null=True)),
    Column("max_attempts", Integer),
    # Its task's turn, as the task has it, so that what waits is put in order without looking up its tasks. While a
    # step does not wait, `task_claimed_at` may be of an earlier claim.
    Column("task_created_at", Double, nullable=False, server_default="0"),
    Column("task_claimed_at", Double),
    Index(None, "content_key"),
    Index(None, "task_id", "position", unique=True),
    Index(None, "task_id", "name", unique=True),
    Index(None, "queue", "status", "waits_for"),
    Index(None, "status", "waits_for"),
    Index(None, "status", "lease_until"),
)

# What a task is made from, by its role in the task.
inputs = Table(
    "inputs",
    metadata,
    Column("task_id", ForeignKey("tasks.task_id", ondelete="CASCADE"), primary_key=True),
    Column("role", String(64), primary_key=True),
    Column("key", String(255), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("media_type", String(64), nullable=False),
)

# What a step made. Of those that version 0013 recorded nobody knows size and sum.
artifacts = Table(
    "artifacts",
    metadata,
    Column("step_id", ForeignKey("steps.step_id", ondelete="CASCADE"), primary_key=True),
    Column("name", String(64), primary_key=True),
    Column("key", String(255), nullable=False),
    Column("bytes", BigInteger),
    Column("sha256", String(64)),
)

needs = Table(
    "needs",
    metadata,
    Column("step_id", ForeignKey("steps.step_id", ondelete="CASCADE"), primary_key=True),
    Column("needed_id", ForeignKey("steps.step_id", ondelete="CASCADE"), primary_key=True),
    Index(None, "needed_id"),
)

attempts = Table(
    "attempts",
    metadata,
    Column("step_id", ForeignKey("steps.step_id", ondelete="CASCADE"), primary_key=True),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("worker_id", String(64), nullable=False),
    Column("started_at", Double, nullable=False),
    Column("ended_at", Double),
    Column("outcome", String(16)),
    Column("error_code", String(64)),
    Column("error_message", Text),
)

events = Table(
    "events",
    metadata,
    Column("event_id", Integer, primary_key=True),
    Column("task_id", ForeignKey("tasks.task_id", ondelete="CASCADE"), nullable=False),
    Column("kind", String(32), nullable=False),
    Column("created_at", Double, nullable=False),
    Index(None, "task_id", "event_id"),
)

workers = Table(
    "workers",
    metadata,
    Column("worker_id", String(64), primary_key=True),
    Column("queue", String(32), nullable=False),
    Column("host", String(255), nullable=False),
    Column("machine", String(64), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("device", String(64), nullable=False),
    Column("gpu", String(36)),
    Column("engines", JSON, nullable=False),
    Column("step_id", String(32)),
    Column("metrics_port", Integer),
    Column("at_once", Integer, nullable=False, server_default="1"),
    Column("started_at", Double, nullable=False),
    Column("seen_at", Double, nullable=False),
)

keepers = Table(
    "keepers",
    metadata,
    Column("keeper_id", String(64), primary_key=True),
    Column("seen_at", Double, nullable=False),
)

LIVE = text("revoked_at IS NULL")
# Who may call. `key_id` is the owner of what is made with the key.
api_keys = Table(
    "api_keys",
    metadata,
    Column("key_id", String(32), primary_key=True),
    Column("name", String(64), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("admin", Boolean, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("revoked_at", Double),
    Column("stored_bytes", BigInteger, nullable=False, server_default="0"),
    Index(None, "name", unique=True, sqlite_where=LIVE, postgresql_where=LIVE),
    Index(None, "sha256", unique=True),
)

# One row: what links to results are signed with.
link_secrets = Table("link_secrets", metadata, Column("secret", String(64), nullable=False))

# What a caller asked to be done once. `owner` is whose key it is.
idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("owner", String(64), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("fingerprint", String(64), nullable=False),
    Column("task_id", ForeignKey("tasks.task_id", ondelete="CASCADE"), nullable=False),
    Column("created_at", Double, nullable=False),
    Index(None, "created_at"),
    Index(None, "task_id"),
)

# Where a caller wants to be told of all of his tasks.
endpoints = Table(
    "endpoints",
    metadata,
    Column("endpoint_id", String(32), primary_key=True),
    Column("owner", String(64), nullable=False),
    Column("url", String(2000), nullable=False),
    Column("events", JSON, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("disabled_at", Double),
    Index(None, "owner", "url", unique=True),
)

# What each caller's callbacks are signed with.
webhook_secrets = Table(
    "webhook_secrets",
    metadata,
    Column("owner", String(64), primary_key=True),
    Column("secret", String(128), nullable=False),
)

# One event to be told at one place. `data` is what is told of the task, as it was then.
deliveries = Table(
    "deliveries",
    metadata,
    Column("delivery_id", String(32), primary_key=True),
    Column("task_id", ForeignKey("tasks.task_id", ondelete="CASCADE"), nullable=False),
    Column("owner", String(64), nullable=False),
    Column("endpoint_id", String(32)),  # no foreign key: a move must not wait for, or fail with, its removal
    Column("url", String(2000), nullable=False),
    Column("host", String(255), nullable=False),
    Column("event", String(32), nullable=False),
    Column("data", JSON, nullable=False),
    Column("status", String(16), nullable=False),
    Column("tries", Integer, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("next_try_at", Double),
    Column("ended_at", Double),
    Column("http_status", Integer),
    Column("error", Text),
    Column("redelivered_at", Double),  # the last time
    Index(None, "task_id"),
    Index(None, "endpoint_id"),
    Index(None, "status", "next_try_at"),
    Index(None, "owner", "status", "delivery_id"),
    Index(None, "ended_at"),
)

# What /metrics counts. A row is one counter, or one bucket of a histogram (`bound` is its upper edge).
counters = Table(
    "counters",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("engine", String(64), primary_key=True),
    Column("bound", String(16), primary_key=True),
    Column("count", Integer, nullable=False),
    Column("total", Double, nullable=False),
)

# The mean seconds of a step, as measured, and how many of them are the render stage's.
step_durations = Table(
    "step_durations",
    metadata,
    Column("engine", String(64), primary_key=True),
    Column("kind", String(32), primary_key=True),
    Column("size", String(64), primary_key=True),
    Column("work", Double, nullable=False),
    Column("count", Integer, nullable=False),
    Column("seconds", Double, nullable=False),
    Column("render_seconds", Double, nullable=False, server_default="0"),
)

# One row: code whose newest migration is older than this revision must not read the ledger.
ledger = Table("ledger", metadata, Column("lowest_reader", String(32), nullable=False))
