"""Tasks are forgotten: what refers to them is found by an index, or each would have all idempotency keys looked at."""

from alembic import op

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    op.create_index("ix_idempotency_keys_task_id", "idempotency_keys", ["task_id"])


def downgrade() -> None:
    op.drop_index("ix_idempotency_keys_task_id", "idempotency_keys")
