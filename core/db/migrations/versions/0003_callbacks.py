"""Callbacks: whose a task is, where its events are told, and what became of each telling."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("tasks", sa.Column("owner", sa.String(length=64), server_default="", nullable=False))
    op.add_column("tasks", sa.Column("callback_url", sa.Text(), nullable=True))
    op.add_column("tasks", sa.Column("callback_events", sa.JSON(), server_default="[]", nullable=False))
    op.create_table(
        "endpoints",
        sa.Column("endpoint_id", sa.String(length=32), nullable=False),
        sa.Column("owner", sa.String(length=64), nullable=False),
        sa.Column("url", sa.String(length=2000), nullable=False),
        sa.Column("events", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("disabled_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("endpoint_id", name=op.f("pk_endpoints")),
    )
    op.create_index(op.f("ix_endpoints_owner_url"), "endpoints", ["owner", "url"], unique=True)
    op.create_table(
        "webhook_secrets",
        sa.Column("owner", sa.String(length=64), nullable=False),
        sa.Column("secret", sa.String(length=128), nullable=False),
        sa.PrimaryKeyConstraint("owner", name=op.f("pk_webhook_secrets")),
    )
    op.create_table(
        "deliveries",
        sa.Column("delivery_id", sa.String(length=32), nullable=False),
        sa.Column("task_id", sa.String(length=32), nullable=False),
        sa.Column("owner", sa.String(length=64), nullable=False),
        sa.Column("endpoint_id", sa.String(length=32), nullable=True),
        sa.Column("url", sa.String(length=2000), nullable=False),
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("event", sa.String(length=32), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("next_try_at", sa.Double(), nullable=True),
        sa.Column("ended_at", sa.Double(), nullable=True),
        sa.Column("http_status", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.task_id"], name=op.f("fk_deliveries_task_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("delivery_id", name=op.f("pk_deliveries")),
    )
    for columns in (
        ["task_id"],
        ["endpoint_id"],
        ["status", "next_try_at"],
        ["owner", "status", "delivery_id"],
        ["ended_at"],
    ):
        op.create_index(op.f(f"ix_deliveries_{'_'.join(columns)}"), "deliveries", columns, unique=False)


def downgrade() -> None:
    for table in ("deliveries", "webhook_secrets", "endpoints"):
        op.drop_table(table)
    for column in ("callback_events", "callback_url", "owner"):
        op.drop_column("tasks", column)
