"""A rest is a number of seconds that is left, and never a time at which it ends: a clock may jump."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    op.execute("ALTER TABLE steps RENAME COLUMN not_before TO ready_at")
    op.add_column("steps", sa.Column("rest_seconds", sa.Double(), server_default="0", nullable=False))
    op.add_column("steps", sa.Column("rested_at", sa.Double(), nullable=True))
    op.execute(sa.table("ledger", sa.column("lowest_reader")).update().values(lowest_reader=revision))


def downgrade() -> None:
    op.drop_column("steps", "rested_at")
    op.drop_column("steps", "rest_seconds")
    op.execute("ALTER TABLE steps RENAME COLUMN ready_at TO not_before")
