"""Turns at decoding, between keys."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from harness.servers import wait_until
from sandbox.turns import Turns


class Line:
    """Those who wait for a turn of one `Turns`, each in a thread of its own."""

    def __init__(self, turns: Turns, held: ExitStack) -> None:
        self.turns, self._held = turns, held
        self.had: list[str] = []
        """Who has had a turn, in that order."""

    def join(self, name: str, owner: str) -> Callable[[], None]:
        """Have `name` wait for a turn. Return what ends it."""
        ended, before = threading.Event(), len(self.turns._waiting)
        was_there = len(self.had)

        def take() -> None:
            with self.turns.turn(owner):
                self.had.append(name)
                ended.wait(30)

        thread = threading.Thread(target=take, daemon=True)
        thread.start()
        self._held.callback(thread.join, 10)
        self._held.callback(ended.set)
        wait_until(lambda: len(self.turns._waiting) > before or len(self.had) > was_there, what=f"{name} in the line")

        def end() -> None:
            ended.set()
            thread.join()

        return end


@contextmanager
def lined_up(turns: Turns) -> Iterator[Line]:
    with ExitStack() as held:
        yield Line(turns, held)


def test_one_key_has_half_of_the_turns_whoever_waits() -> None:
    turns = Turns(4)
    assert [turns.take_now("ann") for _ in range(3)] == [True, True, False]
    with lined_up(turns) as line:
        line.join("third", "ann")
        line.join("bob's", "bob")
        assert line.had == ["bob's"]
        assert turns.take_now("eve"), "nobody who waits may have it"
        turns.give_back("ann")
        wait_until(lambda: line.had == ["bob's", "third"], what="the turn that is free again")


def test_without_keys_all_turns_are_had() -> None:
    turns = Turns(2)
    assert [turns.take_now("") for _ in range(3)] == [True, True, False]


def test_who_comes_while_others_wait_takes_no_turn_before_them() -> None:
    turns = Turns(2)
    assert turns.take_now("")
    assert turns.take_now("")
    with lined_up(turns) as line:
        end_first = line.join("first", "")
        end_second = line.join("second", "")
        turns.give_back("")
        wait_until(lambda: line.had == ["first"], what="the first one's turn")
        assert not turns.take_now("")
        end_first()
        wait_until(lambda: line.had == ["first", "second"], what="the second one's turn")
        end_second()
        assert turns.take_now("")


def test_a_turn_goes_to_who_has_fewest() -> None:
    turns = Turns(4)
    for owner in ("ann", "bob", "bob", "eve"):
        assert turns.take_now(owner)
    with lined_up(turns) as line:
        line.join("another of ann's", "ann")
        line.join("the only one of joe's", "joe")
        turns.give_back("eve")
        wait_until(lambda: line.had == ["the only one of joe's"], what="who has none")
        turns.give_back("bob")
        wait_until(lambda: len(line.had) == 2, what="who has one already")


def test_who_gives_up_waiting_is_waited_for_no_more() -> None:
    turns = Turns(1)
    assert turns.take_now("")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(turns._changed, "wait", interrupt)
        with pytest.raises(KeyboardInterrupt), turns.turn(""):
            pass
    turns.give_back("")
    assert turns.take_now("")
