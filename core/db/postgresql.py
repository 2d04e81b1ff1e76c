"""Connections to PostgreSQL that give a server up which does not answer."""

from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus
from sqlalchemy import event

# A server that freezes must not freeze us: seconds to connect and for any answer, milliseconds for a statement or a
# lock (which the server itself keeps), and a dead connection is noticed within about ten seconds.
ANSWER_SECONDS = 20.0
POSTGRESQL_OPTIONS = {
    "connect_timeout": 5,
    # The last is for one of ours that froze in a transaction: its locks would hold up all the others.
    "options": "-c statement_timeout=15000 -c lock_timeout=10000 -c idle_in_transaction_session_timeout=10000",
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}


def create_engine(url: str) -> sa.Engine:
    engine = sa.create_engine(url, pool_pre_ping=True, hide_parameters=True, connect_args=POSTGRESQL_OPTIONS)
    event.listen(engine, "do_connect", _connect)
    return engine


class ImpatientConnection(psycopg.Connection[Any]):
    """Gives a server up that holds the connection but does not answer, which libpq would wait for without end."""

    def wait(self, gen: PQGen[Any], interval: float = 0.1, timeout: float | None = None) -> Any:
        try:
            return super().wait(gen, interval, timeout or ANSWER_SECONDS)
        except psycopg.OperationalError:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                self.pgconn.finish()  # whatever it may still answer is of no use to anyone
            raise


def _connect(_dialect: Any, _record: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    return ImpatientConnection.connect(*args, **options)
