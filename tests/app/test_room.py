from contextlib import ExitStack

import pytest

from app import decoder, fetch
from app.room import Room
from core.errors import QueueFull

FRONT_THREADS = 40  # of anyio's, which Starlette runs plain functions in


def take(room: Room, owner: str, places: int, held: ExitStack) -> None:
    for _ in range(places):
        held.enter_context(room.place(owner))


def test_one_key_cannot_keep_another_out() -> None:
    room = Room(4, "full")
    with ExitStack() as held:
        take(room, "ann", 2, held)
        with pytest.raises(QueueFull), room.place("ann"):
            pass
        take(room, "bob", 2, held)
        with pytest.raises(QueueFull), room.place("eve"):
            pass
    assert room.free == 4
    with room.place("ann"):
        assert room.free == 3


def test_where_there_are_no_keys_all_places_are_had() -> None:
    room = Room(4, "full")
    with ExitStack() as held:
        take(room, "", 4, held)
        with pytest.raises(QueueFull, match="full"), room.place(""):
            pass


def test_a_place_is_free_again_after_an_error() -> None:
    room = Room(1, "full")
    with pytest.raises(ZeroDivisionError), room.place(""):
        _ = 1 / 0
    assert room.free == 1


def test_what_waits_leaves_threads_for_other_requests() -> None:
    assert decoder.DECODER.room.places + fetch.ROOM.places <= 0.6 * FRONT_THREADS
