"""Each waiting step knows its task's turn, so that the next one is found without looking up the tasks of all."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    op.add_column("steps", sa.Column("task_created_at", sa.Double(), server_default="0", nullable=False))
    op.add_column("steps", sa.Column("task_claimed_at", sa.Double(), nullable=True))
    op.execute(
        "UPDATE steps SET "
        "task_created_at = (SELECT created_at FROM tasks WHERE tasks.task_id = steps.task_id), "
        "task_claimed_at = (SELECT claimed_at FROM tasks WHERE tasks.task_id = steps.task_id) "
        "WHERE status IN ('queued', 'started')"
    )
    op.execute(sa.table("ledger", sa.column("lowest_reader")).update().values(lowest_reader=revision))


def downgrade() -> None:
    op.drop_column("steps", "task_claimed_at")
    op.drop_column("steps", "task_created_at")
