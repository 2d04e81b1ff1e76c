"""API keys: who may call. A key is shown once, when it is made; the ledger holds its SHA-256 and nothing more."""

import hashlib
import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

import sqlalchemy as sa

from core.db.database import reading, writing
from core.db.tables import api_keys, link_secrets, now
from core.db.upsert import insert
from core.errors import InvalidParameter, KeyNotFound
from core.ids import new_id

KEY_BYTES = 32
PREFIX = "kinora_"  # so that a scanner for leaked secrets can tell what it found
TEXT = re.compile(f"{PREFIX}[A-Za-z0-9_-]{{43}}")  # of so many bytes, as new_text writes them
NAME = "[A-Za-z0-9._-]{1,64}"


@dataclass(frozen=True)
class Key:
    """`key_id` is the owner of all that is made with it."""

    key_id: str
    name: str
    admin: bool
    """Whether it sees and ends the tasks of all."""
    created_at: float
    revoked_at: float | None
    stored_bytes: int
    """Pictures and videos of its tasks that are still stored."""


# Asked with every request: built once, since building one costs several times what SQLite needs to run it.
FIND = sa.select(api_keys).where(api_keys.c.sha256 == sa.bindparam("sha256"), api_keys.c.revoked_at.is_(None))
ANY = sa.select(api_keys.c.key_id).limit(1)


class Keys:
    def __init__(self, database: sa.Engine) -> None:
        self.database = database
        self._any = False

    def create(self, name: str, admin: bool = False) -> tuple[Key, str]:
        """The new key, and its text, which is nowhere to be had again. Raises InvalidParameter."""
        if not re.fullmatch(NAME, name):
            raise InvalidParameter("name must have 1 to 64 letters, digits, dots, dashes or underscores", param="name")
        text = new_text()
        values = {"key_id": new_id(), "name": name, "sha256": digest(text), "admin": admin, "created_at": now()}
        with writing(self.database) as tx:
            made = insert(tx, api_keys).values(values).on_conflict_do_nothing().returning(api_keys)
            row = tx.execute(made).one_or_none()
        if row is None:
            raise InvalidParameter(f"there is a key with the name {name}", param="name")
        return _key(row), text

    def find(self, text: str) -> Key | None:
        """The key with this text, unless it was revoked. What is compared are digests, so that the time it takes
        says nothing of a key; what cannot be one costs no query."""
        if not TEXT.fullmatch(text):
            return None
        with reading(self.database) as connection:
            row = connection.execute(FIND, {"sha256": digest(text)}).one_or_none()
        return _key(row) if row else None

    def live(self, digests: Collection[str]) -> set[str]:
        """Those of `digests` whose keys have this text still and were not revoked."""
        asked = api_keys.c.sha256.in_(digests) & api_keys.c.revoked_at.is_(None)
        with reading(self.database) as connection:
            return set(connection.execute(sa.select(api_keys.c.sha256).where(asked)).scalars())

    def is_live(self, key_id: str) -> bool:
        live = sa.and_(api_keys.c.key_id == key_id, api_keys.c.revoked_at.is_(None))
        with reading(self.database) as connection:
            return connection.execute(sa.select(api_keys.c.key_id).where(live)).first() is not None

    def all(self) -> list[Key]:
        """The oldest first, revoked ones too."""
        with reading(self.database) as connection:
            rows = connection.execute(sa.select(api_keys).order_by(api_keys.c.key_id))
            return [_key(row) for row in rows]

    def any(self) -> bool:
        """Whether one was ever made: revoking the last one opens nothing, so that it is asked until there is one."""
        if not self._any:
            with reading(self.database) as connection:
                self._any = connection.execute(ANY).first() is not None
        return self._any

    def rotate(self, name: str) -> str:
        """Give the key a new text, and return it. From the next request on the old one opens nothing; owner, tasks,
        quotas and links stay. Raises KeyNotFound."""
        text = new_text()
        self._change(name, sha256=digest(text))
        return text

    def revoke(self, name: str) -> Key:
        """From the next request on it opens nothing; what it made stays. Raises KeyNotFound."""
        return self._change(name, revoked_at=now())

    def _change(self, name: str, **values: object) -> Key:
        with writing(self.database) as tx:
            changed = api_keys.update().where(has_name(name)).values(values).returning(api_keys)
            row = tx.execute(changed).one_or_none()
        if row is None:
            raise KeyNotFound(f"there is no key with the name {name} that is not revoked", param="name")
        return _key(row)

    @cached_property
    def link_secret(self) -> bytes:
        """What links are signed with, the same for all processes; made with the tables. Raises LedgerUnavailable."""
        with reading(self.database) as connection:
            return bytes.fromhex(connection.execute(sa.select(link_secrets.c.secret)).scalar_one())


def has_name(name: str) -> sa.ColumnElement[bool]:
    """Of the keys with a name one at most is not revoked."""
    return sa.and_(api_keys.c.name == name, api_keys.c.revoked_at.is_(None))


def new_text() -> str:
    return PREFIX + secrets.token_urlsafe(KEY_BYTES)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _key(row: sa.Row[tuple[object, ...]]) -> Key:
    return Key(**{name: getattr(row, name) for name in Key.__dataclass_fields__})
