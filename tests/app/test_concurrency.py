from contextlib import ExitStack

import pytest

from app.fetch import Fetcher
from core.concurrency import ConcurrencyLimit
from core.errors import QueueFull
from sandbox.decoder import Decoder

FRONT_THREADS = 40  # of anyio's, which Starlette runs plain functions in


def take(limit: ConcurrencyLimit, owner: str, slots: int, held: ExitStack) -> None:
    for _ in range(slots):
        held.enter_context(limit.slot(owner))


def test_one_key_cannot_keep_another_out() -> None:
    limit = ConcurrencyLimit(4, "full")
    with ExitStack() as held:
        take(limit, "ann", 2, held)
        with pytest.raises(QueueFull), limit.slot("ann"):
            pass
        take(limit, "bob", 2, held)
        with pytest.raises(QueueFull), limit.slot("eve"):
            pass
    assert limit.free == 4
    with limit.slot("ann"):
        assert limit.free == 3


def test_where_there_are_no_keys_all_places_are_had() -> None:
    limit = ConcurrencyLimit(4, "full")
    with ExitStack() as held:
        take(limit, "", 4, held)
        with pytest.raises(QueueFull, match="full"), limit.slot(""):
            pass


def test_a_place_is_free_again_after_an_error() -> None:
    limit = ConcurrencyLimit(1, "full")
    with pytest.raises(ZeroDivisionError), limit.slot(""):
        _ = 1 / 0
    assert limit.free == 1


def test_what_waits_leaves_threads_for_other_requests() -> None:
    assert Decoder().limit.slots + Fetcher().limit.slots <= 0.6 * FRONT_THREADS
