"""Run by Alembic: migrates over the connection, and within the transaction, that core.db.database.migrate opened."""

from alembic import context

from core.db.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
    render_as_batch=True,  # SQLite cannot alter a column in place
)
with context.begin_transaction():
    context.run_migrations()
