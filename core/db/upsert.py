"""INSERT … ON CONFLICT, which SQLAlchemy writes for each database by functions of its own."""

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

INSERT: dict[str, Any] = {"postgresql": postgresql.insert, "sqlite": sqlite.insert}
"""By the name of the dialect."""


def insert(tx: sa.Connection, table: sa.Table) -> Any:
    """Return an INSERT into `table` that has `on_conflict_do_nothing` and `on_conflict_do_update`."""
    return INSERT[tx.dialect.name](table)


def for_each_dialect(table: sa.Table, changed: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    """Return, by dialect, an INSERT into `table` that changes the row with the same key instead, if there is one.

    Built once: building a statement costs several times what SQLite needs to run it. `changed` returns the new values,
    given the statement, whose `excluded` are those that were to be inserted.
    """
    found = {}
    for name, dialect_insert in INSERT.items():
        statement = dialect_insert(table)
        keys = list(table.primary_key)
        found[name] = statement.on_conflict_do_update(index_elements=keys, set_=changed(statement))
    return found
