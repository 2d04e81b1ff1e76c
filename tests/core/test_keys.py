from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from core.db.database import reading
from core.db.tables import api_keys
from core.errors import InvalidParameter, KeyNotFound
from core.ledger.moves import Ledger


def test_a_key_is_found_by_its_text_and_by_nothing_else(ledger: Ledger) -> None:
    key, text = ledger.keys.create("ann")
    assert ledger.keys.find(text) == key
    for other in (text[:-1], text + "a", text.upper(), key.key_id, "ann", "", "\0", "é" * 500):
        assert ledger.keys.find(other) is None


def test_the_ledger_holds_nothing_that_a_key_could_be_made_of(ledger: Ledger) -> None:
    _, text = ledger.keys.create("ann")
    with reading(ledger.database) as connection:
        (row,) = connection.execute(sa.select(api_keys)).mappings().all()
    assert len(text) >= len("kinora_") + 43  # 32 bytes in base64
    assert text not in str(row)
    assert text.removeprefix("kinora_") not in str(row)
    assert len(row["sha256"]) == 64


def test_a_revoked_key_opens_nothing_and_closes_nothing(ledger: Ledger) -> None:
    assert not ledger.keys.any()
    _, text = ledger.keys.create("ann")
    ledger.keys.revoke("ann")
    assert ledger.keys.find(text) is None
    assert ledger.keys.any()
    with pytest.raises(KeyNotFound):
        ledger.keys.revoke("ann")


@pytest.mark.parametrize("name", ["", "a b", "a/b", "x" * 65, "ann\n"])
def test_a_name_fits_into_a_log_line(ledger: Ledger, name: str) -> None:
    with pytest.raises(InvalidParameter):
        ledger.keys.create(name)


def test_a_name_stands_for_one_key_at_a_time(ledger: Ledger) -> None:
    first, _ = ledger.keys.create("ann")
    with pytest.raises(InvalidParameter, match="there is a key with the name ann"):
        ledger.keys.create("ann")
    ledger.keys.revoke("ann")
    second, text = ledger.keys.create("ann")
    assert second.key_id != first.key_id, "what the first one made is not the second one's"
    ledger.keys.revoke("ann")
    assert ledger.keys.find(text) is None
    assert [(key.name, key.revoked_at is None) for key in ledger.keys.all()] == [("ann", False)] * 2


def test_of_two_at_once_one_gets_the_name(ledger: Ledger) -> None:
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ledger.keys.create, "ann") for _ in range(8)]
        refused = [type(each.exception()) for each in asked if each.exception()]
    assert refused == [InvalidParameter] * 7
    assert len(ledger.keys.all()) == 1


def test_a_rotated_key_has_a_new_text_and_is_the_same_owner(ledger: Ledger) -> None:
    ledger.keys.create("bob")
    key, old = ledger.keys.create("ann", admin=True)
    new = ledger.keys.rotate("ann")
    assert ledger.keys.find(old) is None
    assert ledger.keys.find(new) == key
    assert ledger.keys.rotate("ann") != new
    assert len(ledger.keys.all()) == 2


def test_a_key_that_is_not_live_cannot_be_rotated(ledger: Ledger) -> None:
    _, text = ledger.keys.create("ann")
    ledger.keys.revoke("ann")
    for name in ("ann", "bob"):
        with pytest.raises(KeyNotFound, match=f"there is no key with the name {name} that is not revoked"):
            ledger.keys.rotate(name)
    assert ledger.keys.find(text) is None


def test_all_processes_sign_links_with_the_same_secret(ledger: Ledger, database_url: str) -> None:
    other = Ledger(database_url)
    other.migrate()
    assert ledger.keys.link_secret == other.keys.link_secret
    assert len(ledger.keys.link_secret) == 32
    other.close()
