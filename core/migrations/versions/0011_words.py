"""Tables and columns have the field's words, and the ledger says how old the code may be that reads it."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    with op.batch_alter_table("steps") as steps:
        steps.alter_column("verb", new_column_name="kind")
    with op.batch_alter_table("speeds") as speeds:
        speeds.alter_column("verb", new_column_name="kind")
        speeds.alter_column("front", new_column_name="render_seconds")
    rename("speeds", "step_durations")
    rename("tallies", "counters")
    ledger = op.create_table("ledger", sa.Column("lowest_reader", sa.String(length=32), nullable=False))
    op.execute(ledger.insert().values(lowest_reader=revision))


def rename(old: str, new: str) -> None:
    op.rename_table(old, new)
    if op.get_bind().dialect.name == "postgresql":
        op.execute(f"ALTER INDEX pk_{old} RENAME TO pk_{new}")


def downgrade() -> None:
    op.drop_table("ledger")
    op.rename_table("counters", "tallies")
    op.rename_table("step_durations", "speeds")
    with op.batch_alter_table("speeds") as speeds:
        speeds.alter_column("render_seconds", new_column_name="front")
        speeds.alter_column("kind", new_column_name="verb")
    with op.batch_alter_table("steps") as steps:
        steps.alter_column("kind", new_column_name="verb")
