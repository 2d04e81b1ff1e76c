"""Tasks take turns: what is served next is decided by when a step of a task was claimed last."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    op.add_column("tasks", sa.Column("claimed_at", sa.Double(), nullable=True))
    op.execute(
        "UPDATE tasks SET claimed_at = (SELECT max(steps.started_at) FROM steps WHERE steps.task_id = tasks.task_id)"
    )
    op.drop_index("ix_steps_queue_status_queued_at", "steps")
    op.drop_column("steps", "queued_at")
    op.create_index("ix_steps_queue_status_waits_for", "steps", ["queue", "status", "waits_for"])
    op.create_index("ix_steps_status_waits_for", "steps", ["status", "waits_for"])
    op.execute(sa.table("ledger", sa.column("lowest_reader")).update().values(lowest_reader=revision))


def downgrade() -> None:
    raise NotImplementedError("when a step was queued is not known any more")
