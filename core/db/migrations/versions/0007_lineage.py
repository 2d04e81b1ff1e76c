"""What a task was made from and in which dialect it was asked for, whether it was deleted, and each step's receipt."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column("tasks", sa.Column("dialect", sa.String(length=16), server_default="kinora", nullable=False))
    op.add_column("tasks", sa.Column("remixed_from", sa.String(length=32), nullable=True))
    op.add_column("tasks", sa.Column("extended_from", sa.String(length=32), nullable=True))
    op.add_column("tasks", sa.Column("deleted_at", sa.Double(), nullable=True))
    op.add_column("steps", sa.Column("receipt", sa.JSON(), nullable=True))


def downgrade() -> None:
    op.drop_column("steps", "receipt")
    for column in ("deleted_at", "extended_from", "remixed_from", "dialect"):
        op.drop_column("tasks", column)
