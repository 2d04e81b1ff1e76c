import pytest
from structlog.testing import capture_logs

from core.errors import StorageUnavailable
from worker.attempt import Attempt, Stopped


def test_progress_adds_up_over_the_phases_and_stops_short_of_100() -> None:
    attempt = Attempt({"load": 0.1, "denoise": 0.8, "store": 0.1})
    seen = [attempt.progress]
    with attempt.phase("load"):
        attempt.advance(1, 2)
        seen.append(attempt.progress)
    with attempt.phase("denoise"):
        for step in range(4):
            attempt.advance(step + 1, 4)
            seen.append(attempt.progress)
    with attempt.phase("store"):
        pass
    seen.append(attempt.progress)
    assert seen == [0, 5, 30, 50, 70, 90, 99]


def test_each_phase_is_timed() -> None:
    attempt = Attempt()
    with attempt.phase("a"), attempt.phase("b"):
        pass
    assert list(attempt.seconds) == ["b", "a"]
    assert all(seconds >= 0 for seconds in attempt.seconds.values())


def test_a_stopped_attempt_ends_at_its_next_check_point() -> None:
    attempt = Attempt({"denoise": 1.0})
    with attempt.phase("denoise"):
        attempt.advance(1, 3)
        attempt.stop()
        with pytest.raises(Stopped):
            attempt.advance(2, 3)
    with pytest.raises(Stopped), attempt.phase("decode"):
        pytest.fail("it began another phase")


def test_what_cannot_be_stored_is_tried_again_after_pauses_that_stop_growing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.attempt.FIRST_PAUSE", 0.001)
    monkeypatch.setattr("worker.attempt.LONGEST_PAUSE", 0.003)
    tries: list[int] = []

    def store() -> str:
        tries.append(1)
        if len(tries) <= 5:
            raise StorageUnavailable("away")
        return "stored"

    with capture_logs() as logged:
        assert Attempt().keep_trying(store) == "stored"
    assert [line["pause"] for line in logged] == [0.001, 0.002, 0.003, 0.003, 0.003]


def test_a_phase_that_comes_again_counts_once() -> None:
    attempt = Attempt({"decode": 0.5, "store": 0.5})
    with attempt.phase("decode"):
        attempt.advance(1, 1)
    with attempt.phase("decode"):
        attempt.advance(1, 2)
        assert attempt.progress == 25
