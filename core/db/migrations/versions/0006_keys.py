"""API keys, what each of them stores, and the secret that links are signed with."""

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

OF_AN_OWNER = (["owner", "task_id"], ["owner", "status", "task_id"], ["owner", "created_at"])


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("key_id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("admin", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("revoked_at", sa.Double(), nullable=True),
        sa.Column("stored_bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("key_id", name=op.f("pk_api_keys")),
    )
    for column in ("name", "sha256"):
        op.create_index(op.f(f"ix_api_keys_{column}"), "api_keys", [column], unique=True)
    links = op.create_table("link_secrets", sa.Column("secret", sa.String(length=64), nullable=False))
    op.bulk_insert(links, [{"secret": secrets.token_hex(32)}])
    op.add_column("tasks", sa.Column("stored_bytes", sa.BigInteger(), server_default="0", nullable=False))
    for columns in OF_AN_OWNER:
        op.create_index(op.f(f"ix_tasks_{'_'.join(columns)}"), "tasks", columns, unique=False)


def downgrade() -> None:
    for columns in OF_AN_OWNER:
        op.drop_index(op.f(f"ix_tasks_{'_'.join(columns)}"), "tasks")
    op.drop_column("tasks", "stored_bytes")
    op.drop_table("link_secrets")
    op.drop_table("api_keys")
