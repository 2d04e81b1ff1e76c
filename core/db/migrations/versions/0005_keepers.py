"""Which keepers are alive, for GET /health."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "keepers",
        sa.Column("keeper_id", sa.String(length=64), nullable=False),
        sa.Column("seen_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("keeper_id", name=op.f("pk_keepers")),
    )


def downgrade() -> None:
    op.drop_table("keepers")
