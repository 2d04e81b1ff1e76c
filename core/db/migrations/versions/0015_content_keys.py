"""What a step makes has a key, by which it is found again; a step keeps what another attempt needs, and what it
cost."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    op.add_column("tasks", sa.Column("kind", sa.String(length=16), server_default="clip", nullable=False))
    op.add_column("tasks", sa.Column("retried_from", sa.String(length=32), nullable=True))
    op.add_column("steps", sa.Column("content_key", sa.String(length=64), nullable=True))
    op.add_column("steps", sa.Column("checkpoint", sa.JSON(none_as_null=True), nullable=True))
    op.add_column("steps", sa.Column("cost", sa.JSON(none_as_null=True), nullable=True))
    op.add_column("steps", sa.Column("max_attempts", sa.Integer(), nullable=True))
    op.create_index("ix_steps_content_key", "steps", ["content_key"])


def downgrade() -> None:
    op.drop_index("ix_steps_content_key", "steps")
    for column in ("max_attempts", "cost", "checkpoint", "content_key"):
        op.drop_column("steps", column)
    op.drop_column("tasks", "retried_from")
    op.drop_column("tasks", "kind")
