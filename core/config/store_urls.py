"""Whether a URL can name the ledger's database, or the storage. Connects to nothing."""

import sqlalchemy as sa

POSTGRESQL = ("postgres", "postgresql", "postgresql+psycopg")


def check_database_url(url: str) -> None:
    """Raises ValueError, with a message that quotes nothing of `url`: it may hold a password."""
    try:
        found = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError) as error:
        raise ValueError(
            "must be like postgresql://user:password@host:5432/database; in a user name or a password "
            "/ is %2F, @ is %40, : is %3A, # is %23, ? is %3F and % is %25"
        ) from error
    if found.drivername in POSTGRESQL:
        _check_options(found)
    elif found.drivername != "sqlite" or (found.database or ":memory:") == ":memory:" or found.query:
        raise ValueError("must begin with postgresql:// or, for a file, with sqlite:////")


def _check_options(url: sa.URL) -> None:
    import psycopg  # which most processes do without
    from psycopg.conninfo import make_conninfo

    for name in url.query:
        try:
            make_conninfo(**{name: ""})
        except psycopg.Error as error:
            raise ValueError(f"PostgreSQL's clients know no option {name}: leave it out") from error


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
