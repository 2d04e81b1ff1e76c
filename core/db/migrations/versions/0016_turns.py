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
    let_endpoints_go()
    op.execute(sa.table("ledger", sa.column("lowest_reader")).update().values(lowest_reader=revision))


def let_endpoints_go() -> None:
    """Drop the key by which deliveries refer to endpoints: what 0003 once made has it, a move waits for it."""
    keys = sa.inspect(op.get_bind()).get_foreign_keys("deliveries")
    if any(key["referred_table"] == "endpoints" for key in keys):
        with op.batch_alter_table("deliveries") as deliveries:  # which nothing refers to
            deliveries.drop_constraint("fk_deliveries_endpoint_id", type_="foreignkey")


def downgrade() -> None:
    raise NotImplementedError("when a step was queued is not known any more")
