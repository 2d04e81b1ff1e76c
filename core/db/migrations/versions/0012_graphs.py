"""A task is a graph: steps have names, weights and engines of their own, may fail alone, and one makes the result."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"

COLUMNS = ("name", "weight", "reserved_weight", "engine", "essential", "error_code", "error_message")


def upgrade() -> None:
    op.add_column("tasks", sa.Column("result_step", sa.String(length=32), nullable=True))
    op.execute(
        "UPDATE tasks SET result_step = (SELECT step_id FROM steps WHERE steps.task_id = tasks.task_id "
        "ORDER BY position DESC LIMIT 1)"
    )
    op.add_column("steps", sa.Column("name", sa.String(length=64), server_default="", nullable=False))
    op.add_column("steps", sa.Column("weight", sa.Double(), server_default="1", nullable=False))
    op.add_column("steps", sa.Column("reserved_weight", sa.Double(), server_default="0", nullable=False))
    op.add_column("steps", sa.Column("engine", sa.String(length=64), nullable=True))
    op.add_column("steps", sa.Column("essential", sa.Boolean(), server_default=sa.true(), nullable=False))
    op.add_column("steps", sa.Column("error_code", sa.String(length=64), nullable=True))
    op.add_column("steps", sa.Column("error_message", sa.Text(), nullable=True))
    op.execute("UPDATE steps SET name = CAST(position AS VARCHAR), weight = work + 1")
    op.execute(
        "UPDATE steps SET engine = (SELECT engine FROM tasks WHERE tasks.task_id = steps.task_id) WHERE kind = 'clip'"
    )
    op.create_index("ix_steps_task_id_name", "steps", ["task_id", "name"], unique=True)
    # What needs no engine takes as long whichever engine its task is made with.
    op.execute("DELETE FROM step_durations WHERE kind != 'clip'")
    op.execute(sa.table("ledger", sa.column("lowest_reader")).update().values(lowest_reader=revision))


def downgrade() -> None:
    op.drop_index("ix_steps_task_id_name", "steps")
    for column in reversed(COLUMNS):
        op.drop_column("steps", column)
    op.drop_column("tasks", "result_step")
