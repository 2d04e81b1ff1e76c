"""How long steps take, by engine, verb and size."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("steps", sa.Column("size", sa.String(length=64), server_default="", nullable=False))
    op.add_column("steps", sa.Column("work", sa.Double(), server_default="0", nullable=False))
    op.create_table(
        "speeds",
        sa.Column("engine", sa.String(length=64), nullable=False),
        sa.Column("verb", sa.String(length=32), nullable=False),
        sa.Column("size", sa.String(length=64), nullable=False),
        sa.Column("work", sa.Double(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("engine", "verb", "size", name=op.f("pk_speeds")),
    )


def downgrade() -> None:
    op.drop_table("speeds")
    for column in ("work", "size"):
        op.drop_column("steps", column)
