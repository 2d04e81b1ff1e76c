"""Tasks, steps, attempts, events, workers, tallies."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "tallies",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("engine", sa.String(length=64), nullable=False),
        sa.Column("bound", sa.String(length=16), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("total", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", "engine", "bound", name=op.f("pk_tallies")),
    )
    op.create_table(
        "tasks",
        sa.Column("task_id", sa.String(length=32), nullable=False),
        sa.Column("status", sa.String(length=8), nullable=False),
        sa.Column("engine", sa.String(length=64), nullable=False),
        sa.Column("params", sa.JSON(), nullable=False),
        sa.Column("input_key", sa.String(length=255), nullable=False),
        sa.Column("input_sha256", sa.String(length=64), nullable=False),
        sa.Column("warnings", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("started_at", sa.Double(), nullable=True),
        sa.Column("finished_at", sa.Double(), nullable=True),
        sa.Column("expired_at", sa.Double(), nullable=True),
        sa.Column("error_code", sa.String(length=64), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("artifacts", sa.JSON(), nullable=False),
        sa.Column("receipt", sa.JSON(), nullable=True),
        sa.PrimaryKeyConstraint("task_id", name=op.f("pk_tasks")),
    )
    op.create_index(op.f("ix_tasks_expired_at_finished_at"), "tasks", ["expired_at", "finished_at"], unique=False)
    op.create_index(op.f("ix_tasks_status_task_id"), "tasks", ["status", "task_id"], unique=False)
    op.create_table(
        "workers",
        sa.Column("worker_id", sa.String(length=64), nullable=False),
        sa.Column("queue", sa.String(length=32), nullable=False),
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("machine", sa.String(length=64), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("device", sa.String(length=64), nullable=False),
        sa.Column("engines", sa.JSON(), nullable=False),
        sa.Column("step_id", sa.String(length=32), nullable=True),
        sa.Column("metrics_port", sa.Integer(), nullable=True),
        sa.Column("started_at", sa.Double(), nullable=False),
        sa.Column("seen_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("worker_id", name=op.f("pk_workers")),
    )
    op.create_table(
        "events",
        sa.Column("event_id", sa.Integer(), nullable=False),
        sa.Column("task_id", sa.String(length=32), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.task_id"], name=op.f("fk_events_task_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("event_id", name=op.f("pk_events")),
    )
    op.create_index(op.f("ix_events_task_id_event_id"), "events", ["task_id", "event_id"], unique=False)
    op.create_table(
        "steps",
        sa.Column("step_id", sa.String(length=32), nullable=False),
        sa.Column("task_id", sa.String(length=32), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("verb", sa.String(length=32), nullable=False),
        sa.Column("queue", sa.String(length=32), nullable=False),
        sa.Column("status", sa.String(length=8), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("params", sa.JSON(), nullable=False),
        sa.Column("waits_for", sa.Integer(), nullable=False),
        sa.Column("progress", sa.Integer(), nullable=False),
        sa.Column("phase", sa.String(length=32), nullable=True),
        sa.Column("queued_at", sa.Double(), nullable=False),
        sa.Column("not_before", sa.Double(), nullable=False),
        sa.Column("started_at", sa.Double(), nullable=True),
        sa.Column("finished_at", sa.Double(), nullable=True),
        sa.Column("lease_until", sa.Double(), nullable=True),
        sa.Column("worker_id", sa.String(length=64), nullable=True),
        sa.Column("artifacts", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.task_id"], name=op.f("fk_steps_task_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("step_id", name=op.f("pk_steps")),
    )
    op.create_index(op.f("ix_steps_queue_status_queued_at"), "steps", ["queue", "status", "queued_at"], unique=False)
    op.create_index(op.f("ix_steps_status_lease_until"), "steps", ["status", "lease_until"], unique=False)
    op.create_index(op.f("ix_steps_task_id_position"), "steps", ["task_id", "position"], unique=True)
    op.create_table(
        "attempts",
        sa.Column("step_id", sa.String(length=32), nullable=False),
        sa.Column("attempt", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("worker_id", sa.String(length=64), nullable=False),
        sa.Column("started_at", sa.Double(), nullable=False),
        sa.Column("ended_at", sa.Double(), nullable=True),
        sa.Column("outcome", sa.String(length=16), nullable=True),
        sa.Column("error_code", sa.String(length=64), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["step_id"], ["steps.step_id"], name=op.f("fk_attempts_step_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("step_id", "attempt", name=op.f("pk_attempts")),
    )
    op.create_table(
        "needs",
        sa.Column("step_id", sa.String(length=32), nullable=False),
        sa.Column("needed_id", sa.String(length=32), nullable=False),
        sa.ForeignKeyConstraint(["needed_id"], ["steps.step_id"], name=op.f("fk_needs_needed_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["step_id"], ["steps.step_id"], name=op.f("fk_needs_step_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("step_id", "needed_id", name=op.f("pk_needs")),
    )
    op.create_index(op.f("ix_needs_needed_id"), "needs", ["needed_id"], unique=False)


def downgrade() -> None:
    op.drop_index(op.f("ix_needs_needed_id"), table_name="needs")
    op.drop_table("needs")
    op.drop_table("attempts")
    op.drop_index(op.f("ix_steps_task_id_position"), table_name="steps")
    op.drop_index(op.f("ix_steps_status_lease_until"), table_name="steps")
    op.drop_index(op.f("ix_steps_queue_status_queued_at"), table_name="steps")
    op.drop_table("steps")
    op.drop_index(op.f("ix_events_task_id_event_id"), table_name="events")
    op.drop_table("events")
    op.drop_table("workers")
    op.drop_index(op.f("ix_tasks_status_task_id"), table_name="tasks")
    op.drop_index(op.f("ix_tasks_expired_at_finished_at"), table_name="tasks")
    op.drop_table("tasks")
    op.drop_table("tallies")
