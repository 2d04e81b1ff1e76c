"""Tasks are forgotten: what refers to them is found by an index, or each would have all idempotency keys looked at. A
delivery that was asked for once more does not hold its task."""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    op.create_index("ix_idempotency_keys_task_id", "idempotency_keys", ["task_id"])
    op.add_column("deliveries", sa.Column("redelivered_at", sa.Double(), nullable=True))


def downgrade() -> None:
    op.drop_column("deliveries", "redelivered_at")
    op.drop_index("ix_idempotency_keys_task_id", "idempotency_keys")
