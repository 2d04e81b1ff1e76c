"""A hundred thousand idempotency keys of one caller, on both databases."""

import threading
from dataclasses import replace

import sqlalchemy as sa

from core.db.tables import idempotency_keys, now
from core.ledger.moves import KEY_SECONDS, Ledger
from core.task import IdempotencyKey
from tests.conftest import new_task

MANY = 100_000


def test_a_hundred_thousand_idempotency_keys_are_found_and_forgotten_while_others_write(ledger: Ledger) -> None:
    owner, other = (ledger.keys.create(name)[0].key_id for name in ("ann", "bob"))
    ledger.create(task := replace(new_task(), owner=owner), IdempotencyKey(owner, "first", "f"))
    with ledger.database.begin() as tx:
        old = sa.select(now() - KEY_SECONDS - 60).scalar_subquery()
        rows = [{"owner": owner, "key": f"key {number}", "task_id": task.task_id} for number in range(MANY)]
        tx.execute(idempotency_keys.insert().values(fingerprint="f", created_at=old), rows)
    assert ledger.task_made_with(IdempotencyKey(owner, f"key {MANY // 2}", "f")) == task.task_id
    forgetting = threading.Thread(target=ledger.forget_old_keys)
    forgetting.start()
    made = 0
    while forgetting.is_alive():
        ledger.create(replace(new_task(), owner=other))
        made += 1
    assert made, "of another caller, meanwhile"
    with ledger.database.begin() as tx:
        left = tx.execute(sa.select(idempotency_keys.c.key)).scalars().all()
    assert list(left) == ["first"]
