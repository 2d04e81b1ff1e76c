"""Where a caller wants to be told of his tasks, and the secret that his callbacks are signed with."""

import base64
import secrets
from dataclasses import dataclass
from enum import StrEnum

import sqlalchemy as sa

from core.db.database import ENDPOINTS_LOCK, one_at_a_time, reading, writing
from core.db.tables import endpoints, now, webhook_secrets
from core.db.upsert import insert
from core.errors import EndpointNotFound, InvalidParameter
from core.ids import is_id, new_id
from core.status import Status

# Each is one more row to write in the transaction that ends a task.
MAX_ENDPOINTS = 20
SECRET_BYTES = 32  # Standard Webhooks asks for 24 to 64


class CallbackEvent(StrEnum):
    """What a callback can tell. Without a word it tells the last three: one of them ends each task."""

    STARTED = "task.started"
    PROGRESS = "task.progress"
    FINISHED = "task.finished"
    FAILED = "task.failed"
    CANCELED = "task.canceled"


class VideoEvent(StrEnum):
    """What those are told whose task came in by OpenAI's dialect."""

    COMPLETED = "video.completed"
    FAILED = "video.failed"


FINAL_EVENTS = [CallbackEvent(f"task.{status}") for status in (Status.FINISHED, Status.FAILED, Status.CANCELED)]


@dataclass(frozen=True)
class Endpoint:
    endpoint_id: str
    owner: str
    url: str
    events: list[str]
    created_at: float
    disabled_at: float | None
    """When it answered 410 Gone; since then it is told nothing."""


class Endpoints:
    def __init__(self, database: sa.Engine) -> None:
        self.database = database

    def register(self, owner: str, url: str, events: list[str]) -> Endpoint:
        """Tell `url` of every task of `owner`. Done again it changes the events, and switches the endpoint on again.

        Raises InvalidParameter. Whether `url` is one that may be told is judged before, and again at each try.
        """
        values = {"endpoint_id": new_id(), "owner": owner, "url": url, "events": events, "created_at": now()}
        with writing(self.database) as tx:
            one_at_a_time(tx, ENDPOINTS_LOCK)
            known = tx.execute(sa.select(endpoints.c.url).where(_of(owner))).scalars().all()
            if url not in known and len(known) >= MAX_ENDPOINTS:
                raise InvalidParameter(f"there are {len(known)} endpoints, and no more may be: remove one", param="url")
            changed = {"events": events, "disabled_at": None}
            made = insert(tx, endpoints).values(values)
            made = made.on_conflict_do_update(index_elements=["owner", "url"], set_=changed)
            return _endpoint(tx.execute(made.returning(endpoints)).one())

    def all(self, owner: str | None) -> list[Endpoint]:
        """Of one owner, or of all; the oldest first."""
        query = sa.select(endpoints).where(_of(owner)).order_by(endpoints.c.endpoint_id)
        with reading(self.database) as connection:
            return [_endpoint(row) for row in connection.execute(query)]

    def remove(self, owner: str | None, endpoint_id: str) -> None:
        """Tell it nothing more; what is under way to it is still tried. Raises EndpointNotFound."""
        mine = sa.and_(_of(owner), endpoints.c.endpoint_id == endpoint_id)
        with writing(self.database) as tx:
            if not is_id(endpoint_id) or not tx.execute(endpoints.delete().where(mine)).rowcount:
                raise EndpointNotFound(f"there is no endpoint {endpoint_id!r}", param="endpoint_id")

    def secret(self, owner: str) -> str:
        """`whsec_…`, made when it is first asked for."""
        query = sa.select(webhook_secrets.c.secret).where(webhook_secrets.c.owner == owner)
        with reading(self.database) as connection:
            found = connection.execute(query).scalar_one_or_none()
        if found:
            return str(found)
        made = "whsec_" + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()
        with writing(self.database) as tx:
            tx.execute(insert(tx, webhook_secrets).values(owner=owner, secret=made).on_conflict_do_nothing())
            return str(tx.execute(query).scalar_one())  # another process may have been first


def _of(owner: str | None) -> sa.ColumnElement[bool]:
    return sa.true() if owner is None else endpoints.c.owner == owner


def _endpoint(row: sa.Row[tuple[object, ...]]) -> Endpoint:
    return Endpoint(**{name: getattr(row, name) for name in Endpoint.__dataclass_fields__})
