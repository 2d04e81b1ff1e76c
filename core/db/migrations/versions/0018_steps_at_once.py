"""Workers say how many steps they do at a time: an ETA goes by it."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    op.add_column("workers", sa.Column("at_once", sa.Integer(), server_default="1", nullable=False))


def downgrade() -> None:
    op.drop_column("workers", "at_once")
