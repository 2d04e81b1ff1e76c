"""What a task is made from and what its steps made are rows: none, one or many, with their sizes and sums."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    op.create_table(
        "inputs",
        sa.Column("task_id", sa.String(length=32), nullable=False),
        sa.Column("role", sa.String(length=64), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("media_type", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.task_id"], name="fk_inputs_task_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("task_id", "role", name="pk_inputs"),
    )
    op.create_table(
        "artifacts",
        sa.Column("step_id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=True),
        sa.Column("sha256", sa.String(length=64), nullable=True),
        sa.ForeignKeyConstraint(["step_id"], ["steps.step_id"], name="fk_artifacts_step_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("step_id", "name", name="pk_artifacts"),
    )
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    continues = "json_extract(params, '$.continues')" if is_sqlite else "params ->> 'continues'"
    op.execute(
        "INSERT INTO inputs (task_id, role, key, sha256, media_type) "  # noqa: S608 - by the dialect alone
        f"SELECT task_id, CASE WHEN {continues} IS NULL THEN 'picture' ELSE 'video' END, input_key, input_sha256, '' "
        "FROM tasks"
    )
    each = "json_each(steps.artifacts)" if is_sqlite else "json_each_text(steps.artifacts)"
    op.execute(
        "INSERT INTO artifacts (step_id, name, key) "  # noqa: S608 - likewise
        "SELECT step_id, CASE made.key WHEN 'after' THEN 'continuity' ELSE made.key END, made.value "
        f"FROM steps, {each} AS made"
    )
    op.drop_column("steps", "artifacts")
    for column in ("artifacts", "input_sha256", "input_key"):
        op.drop_column("tasks", column)
    op.execute(sa.table("ledger", sa.column("lowest_reader")).update().values(lowest_reader=revision))


def downgrade() -> None:
    raise NotImplementedError("a task had one input only")
