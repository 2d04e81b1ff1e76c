"""Connections to PostgreSQL that give a server up which does not answer, also through a pooler such as PgBouncer.

A pooler that gives each transaction another session drops or refuses what is set for a session, and knows nothing of
statements that were prepared in it. It is told by that: then the timeouts are set in each transaction, and nothing is
prepared.
"""

import re
from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus
from sqlalchemy import event

# A server that freezes must not freeze us: seconds to connect and for any answer, and a dead connection is noticed
# within about ten seconds.
ANSWER_SECONDS = 20.0
POSTGRESQL_OPTIONS = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
# For a statement and for a lock, which the server itself keeps. The last is for one of ours that froze in a
# transaction: its locks would hold up all the others.
TIMEOUTS = {"statement_timeout": "15s", "lock_timeout": "10s", "idle_in_transaction_session_timeout": "10s"}
SET_TIMEOUTS = "SELECT " + ", ".join(f"set_config('{name}', '{value}', true)" for name, value in TIMEOUTS.items())
# One more of ours, which no URL sets otherwise: a pooler that drops what is set for a session drops this too.
MARK = ("kinora.session", "kept")
OPTIONS_REFUSED = re.compile("startup parameter|command-line option", re.IGNORECASE)


def create_engine(url: str, **options: Any) -> sa.Engine:
    options |= {"pool_pre_ping": True, "hide_parameters": True, "connect_args": POSTGRESQL_OPTIONS}
    engine = sa.create_engine(url, **options)
    event.listen(engine, "do_connect", _connect)
    event.listen(engine, "begin", _set_timeouts)
    return engine


class ImpatientConnection(psycopg.Connection[Any]):
    """Gives a server up that holds the connection but does not answer, which libpq would wait for without end."""

    is_pooled = False
    """Whether its session is another one in each transaction, as far as can be told."""

    def wait(self, gen: PQGen[Any], interval: float = 0.1, timeout: float | None = None) -> Any:
        try:
            return super().wait(gen, interval, timeout or ANSWER_SECONDS)
        except psycopg.OperationalError:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                self.pgconn.finish()  # whatever it may still answer is of no use to anyone
            raise


def _connect(_dialect: Any, _record: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    given = options.get("options", "")  # by the URL
    ours = " ".join(f"-c {name}={value}" for name, value in (*TIMEOUTS.items(), MARK))
    try:
        connection = ImpatientConnection.connect(*args, **options | {"options": f"{ours} {given}"})
        connection.is_pooled = not _keeps_settings(connection)
    except psycopg.OperationalError as error:
        if not OPTIONS_REFUSED.search(str(error)):
            raise
        connection = ImpatientConnection.connect(*args, **options)
        connection.is_pooled = True
    if connection.is_pooled:
        connection.prepare_threshold = None
    return connection


def _keeps_settings(connection: ImpatientConnection) -> bool:
    with connection.transaction(force_rollback=True):
        row = connection.execute(f"SELECT current_setting('{MARK[0]}', true)").fetchone()
    return row == (MARK[1],)


def _set_timeouts(connection: sa.Connection) -> None:
    if getattr(connection.connection.dbapi_connection, "is_pooled", False):
        connection.exec_driver_sql(SET_TIMEOUTS)
