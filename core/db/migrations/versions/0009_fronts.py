"""How long a step keeps its worker's engine, besides how long it takes."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.add_column("speeds", sa.Column("front", sa.Double(), server_default="0", nullable=False))
    op.execute("UPDATE speeds SET front = seconds")  # as it was until now


def downgrade() -> None:
    op.drop_column("speeds", "front")
