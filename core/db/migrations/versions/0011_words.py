"""Tables and columns have the field's words, and the ledger says how old the code may be that reads it."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


# Not as a batch: on SQLite that makes the table anew, and to drop the old one deletes what refers to its rows.
RENAMED = (("steps", "verb", "kind"), ("speeds", "verb", "kind"), ("speeds", "front", "render_seconds"))


def upgrade() -> None:
    for table, old, new in RENAMED:
        op.execute(f"ALTER TABLE {table} RENAME COLUMN {old} TO {new}")
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
    rename("counters", "tallies")
    rename("step_durations", "speeds")
    for table, old, new in RENAMED:
        op.execute(f"ALTER TABLE {table} RENAME COLUMN {new} TO {old}")
