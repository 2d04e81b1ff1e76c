"""How long a step rests before its next attempt, whatever clocks and keepers do meanwhile."""

from collections.abc import Callable

import pytest

from core.task import ErrorInfo, Rest
from keeper.main import Keeper
from keeper.rests import MOST_BELIEVED_SECONDS, NOTE_SECONDS, Rests
from tests.conftest import new_task

HOUR = 3600.0
REST = 300.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The keeper's own clock; change its only element."""
    moment = [100.0]
    monkeypatch.setattr("keeper.rests.monotonic", lambda: moment[0])
    return moment


def test_a_rest_is_over_when_its_seconds_have_passed(clock: list[float]) -> None:
    rests, resting = Rests(), [Rest("s", 1, 5.0, since=0.5)]
    for _ in range(9):
        assert rests.look(resting) == ([], [])
        clock[0] += 0.5
    assert rests.look(resting) == (resting, [])


def test_what_is_left_is_written_down_from_time_to_time(clock: list[float]) -> None:
    rests = Rests()
    resting = Rest("s", 1, REST, since=0.0)
    assert rests.look([resting]) == ([], [])
    clock[0] += NOTE_SECONDS
    assert rests.look([resting]) == ([], [(resting, REST - NOTE_SECONDS)])
    clock[0] += 1
    noted = Rest("s", 1, REST - NOTE_SECONDS, since=1.0)
    assert rests.look([noted]) == ([], [])


@pytest.mark.parametrize("since", [-HOUR, HOUR, MOST_BELIEVED_SECONDS + 1])
def test_a_clock_that_may_have_jumped_is_not_believed(clock: list[float], since: float) -> None:
    rests, resting = Rests(), [Rest("s", 1, 5.0, since)]
    assert rests.look(resting) == ([], [])
    clock[0] += 4.9
    assert rests.look(resting) == ([], [])
    clock[0] += 0.1
    assert rests.look(resting) == (resting, [])


class World:
    """Time passes for the keeper and the database alike, a second at once; only the database's clock jumps."""

    def __init__(self, keeper: Keeper, clock: list[float], set_clock: Callable[[float], None]) -> None:
        self.keeper, self.clock, self.set_clock = keeper, clock, set_clock
        self.jumped = self.passed = 0.0
        ((self.step_id, _),) = keeper.ledger.create(new_task())
        claim = keeper.ledger.claim(self.step_id, "w", 60)
        assert claim is not None
        assert keeper.ledger.lose(claim, ErrorInfo("unavailable", "come back"), max_attempts=9, rest_seconds=REST)
        keeper.end_rests()

    def pass_seconds(self, seconds: int, keeper_lives: bool = True) -> None:
        for _ in range(seconds):
            self.clock[0] += 1
            self.passed += 1
            self.set_clock(self.passed + self.jumped)
            if keeper_lives:
                self.keeper.end_rests()

    def restart_keeper(self) -> None:
        self.keeper.rests = Rests()

    def rests(self) -> bool:
        resting = bool(self.keeper.ledger.rests())
        assert (self.keeper.ledger.claim(self.step_id, "w", 60) is None) == resting
        return resting

    def pass_the_rest(self) -> float:
        """Return how long it took in all."""
        while self.keeper.ledger.rests():
            self.pass_seconds(1)
        return self.passed


@pytest.mark.parametrize("jump", [0.0, HOUR, -HOUR])
def test_a_step_told_to_rest_300_s_rests_300_s(
    keeper: Keeper, clock: list[float], set_clock: Callable[[float], None], jump: float
) -> None:
    world = World(keeper, clock, set_clock)
    world.pass_seconds(100)
    world.jumped = jump
    world.pass_seconds(198)
    assert world.rests()
    assert world.pass_the_rest() == pytest.approx(REST, abs=2)


@pytest.mark.parametrize("jump", [0.0, HOUR, -HOUR])
def test_a_rest_goes_on_where_it_was_when_the_keeper_is_started_anew(
    keeper: Keeper, clock: list[float], set_clock: Callable[[float], None], jump: float
) -> None:
    world = World(keeper, clock, set_clock)
    for _ in range(3):
        world.pass_seconds(55)
        world.pass_seconds(4, keeper_lives=False)
        world.jumped += jump
        world.restart_keeper()
    took = world.pass_the_rest()
    # What passed since it was last written down is known unless the clock jumped meanwhile.
    most = REST + 2 if not jump else REST + 2 + 3 * (NOTE_SECONDS + 4)
    assert REST - 2 <= took <= most


def test_a_keeper_that_was_away_for_long_makes_a_rest_longer_and_never_shorter(
    keeper: Keeper, clock: list[float], set_clock: Callable[[float], None]
) -> None:
    world = World(keeper, clock, set_clock)
    world.pass_seconds(50)
    world.pass_seconds(200, keeper_lives=False)
    world.restart_keeper()
    assert REST <= world.pass_the_rest() <= REST + 200 + 2
