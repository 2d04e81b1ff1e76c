"""Which errors of a database stay for as long as nobody does something about it: a process need not wait."""

import sqlite3

# A file that is no database, or may not be opened or written, and tables that are another program's.
SQLITE = {
    *(sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY),
    *(sqlite3.SQLITE_PERM, sqlite3.SQLITE_ERROR),
}
# A user who may not use the schema or make tables in it, no schema at all, and tables that are another program's.
POSTGRESQL = {"42501", "3F000", "42P01", "42P07"}


def is_hopeless(error: BaseException | None) -> bool:
    """Return whether SQLAlchemy's `error` is one of those."""
    cause = getattr(error, "orig", None)
    if isinstance(cause, sqlite3.Error):
        return cause.sqlite_errorcode & 0xFF in SQLITE
    return getattr(cause, "sqlstate", None) in POSTGRESQL
