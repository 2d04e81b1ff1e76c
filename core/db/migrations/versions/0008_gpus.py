"""Which GPU each worker holds, for GET /health."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.add_column("workers", sa.Column("gpu", sa.String(length=36), nullable=True))


def downgrade() -> None:
    op.drop_column("workers", "gpu")
