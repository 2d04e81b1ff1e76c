"""Whether a URL can name the ledger's database, or the storage. Sends nothing to anybody: libpq is asked to connect to
an address that the kernel refuses."""

from pathlib import Path
from typing import Any

import sqlalchemy as sa

POSTGRESQL = ("postgres", "postgresql", "postgresql+psycopg")
FILE_EXAMPLE = "sqlite:////folder/kinora.db"

# Of the options behind "?": where the server is, which only a connection tells right from wrong, and files.
PLACES = {"host", "hostaddr", "port", "gssencmode"}
FILES = {"sslrootcert", "sslcert", "sslkey"}
NOWHERE = "255.255.255.255"  # the kernel itself refuses it


def check_database_url(url: str) -> None:
    """Raises ValueError, with a message that quotes of `url` no more than what stands behind "?": it may hold a
    password."""
    try:
        found = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError) as error:
        raise ValueError(
            "must be like postgresql://user:password@host:5432/database; in a user name or a password "
            "/ is %2F, @ is %40, : is %3A, # is %23, ? is %3F and % is %25"
        ) from error
    if found.drivername in POSTGRESQL:
        _check_server(found)
    elif found.drivername == "sqlite":
        _check_file(found)
    else:
        raise ValueError(f"must begin with postgresql:// or, for a file, be like {FILE_EXAMPLE}")


def _check_file(url: sa.URL) -> None:
    if url.query:
        raise ValueError("a file of SQLite takes no options: leave out what stands behind ?")
    path = url.database or ":memory:"
    if path == ":memory:" and not url.host:
        raise ValueError(f"must name a file, like {FILE_EXAMPLE}: what is in memory is each process's own")
    if url.host or not path.startswith("/"):
        raise ValueError(
            f"must have the whole path of the file, and so four times /, like {FILE_EXAMPLE}: "
            "each process would look in the folder in which it starts"
        )


def _check_server(url: sa.URL) -> None:
    """Raises ValueError for what would fail again at each connection, whatever the server says."""
    if url.port is not None and not 1 <= url.port <= 65535:
        raise ValueError("the port must be from 1 to 65535")
    options = {name: value for name, value in url.query.items() if name not in PLACES}
    for name, value in options.items():
        if not isinstance(value, str):
            raise ValueError(f"{name} stands in it more than once")
        _check_known(name)
        if name in FILES and value != "system":
            _check_readable(name, value)
    reason = _failure(**options)
    if reason != _failure():
        raise ValueError(f"what stands behind ? does not fit: {reason}")


def _check_known(option: str) -> None:
    import psycopg  # which most processes do without
    from psycopg.conninfo import make_conninfo

    try:
        make_conninfo(**{option: ""})
    except psycopg.Error as error:
        raise ValueError(f"PostgreSQL's clients know no option {option}: leave it out") from error


def _check_readable(option: str, path: str) -> None:
    try:
        Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{option} cannot be read: {error}") from error


def _failure(**options: Any) -> str:
    """Return what libpq says of an address that it cannot reach or, before it comes to that, of the options."""
    from psycopg import pq
    from psycopg.conninfo import make_conninfo

    # With a port, or one that a service names would stand in what libpq says.
    connection = pq.PGconn.connect_start(make_conninfo(hostaddr=NOWHERE, port="1", **options).encode())
    try:
        return connection.error_message.decode(errors="replace").partition("\n")[0]
    finally:
        connection.finish()


def check_storage_url(url: str) -> None:
    """Raises ValueError. No such URL holds a secret."""
    from obstore.exceptions import BaseError
    from obstore.store import MemoryStore, from_url

    try:
        is_shared = url.startswith("file://") or not isinstance(from_url(url), MemoryStore)
    except (BaseError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"must be like s3://bucket/prefix, gs://…, az://… or file:///folder: {reason}") from error
    if not is_shared:
        raise ValueError("must name a storage that all processes share: memory:// is each one's own")
