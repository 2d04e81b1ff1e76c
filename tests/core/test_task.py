from core.ids import new_id
from core.status import FINAL, MOVES, Status, sources


def test_final_is_sticky() -> None:
    assert all(MOVES[status] == frozenset() for status in FINAL)
    assert all(status.is_final == (status in FINAL) for status in Status)


def test_nothing_finishes_that_has_not_started() -> None:
    assert sources(Status.FINISHED) == [Status.STARTED]


def test_ids_sort_by_the_time_they_were_made() -> None:
    ids = [new_id() for _ in range(1000)]
    assert ids == sorted(ids)
    assert len(set(ids)) == 1000
    assert all(len(task_id) == 32 and set(task_id) <= set("0123456789abcdef") for task_id in ids)
