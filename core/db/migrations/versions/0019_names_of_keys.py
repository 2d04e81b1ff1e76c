"""A name stands for one key at a time: that of a revoked one can be used again."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"

NAME = "ix_api_keys_name"


def upgrade() -> None:
    live = sa.text("revoked_at IS NULL")
    op.drop_index(NAME, "api_keys")
    op.create_index(NAME, "api_keys", ["name"], unique=True, sqlite_where=live, postgresql_where=live)


def downgrade() -> None:
    op.drop_index(NAME, "api_keys")
    op.create_index(NAME, "api_keys", ["name"], unique=True)
