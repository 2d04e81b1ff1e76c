"""The model of torch's allocator by which memory plans are judged."""

import pytest

from bench.allocator import LARGE_SEGMENT, MIB, Expandable, RanOut, Segments

HUGE = 10**12


@pytest.mark.parametrize("kind", [Segments, Expandable])
def test_what_is_given_back_is_taken_again(kind: type[Segments]) -> None:
    allocator = kind(HUGE)
    for turn in range(5):
        allocator.replay([(turn, 100 * MIB), (turn, -1)])
    assert allocator.peak == 100 * MIB
    allocator.release()
    assert allocator.reserved == 0


def test_a_fixed_segment_is_split_and_its_neighbours_join_again() -> None:
    allocator = Segments(100 * MIB)
    allocator.replay([(1, 100 * MIB), (1, -1), (2, 40 * MIB), (3, 30 * MIB), (4, 30 * MIB)])
    assert allocator.reserved == 100 * MIB
    allocator.replay([(3, -1), (2, -1), (5, 70 * MIB)])
    with pytest.raises(RanOut, match=f"{2 * MIB} bytes are wanted"):
        allocator.take(6, 2 * MIB)


def test_holes_between_what_lives_are_lost_in_fixed_segments_and_mapped_anew_in_expandable_ones() -> None:
    """Two of 60 in each of which 20 live on: 80 are free, and 70 are wanted."""
    events = [(1, 60 * MIB), (1, -1), (2, 20 * MIB), (3, 40 * MIB), (4, 60 * MIB), (4, -1), (5, 20 * MIB), (3, -1)]
    with pytest.raises(RanOut):
        Segments(120 * MIB).replay([*events, (6, 70 * MIB)])
    Expandable(120 * MIB).replay([*events, (6, 70 * MIB)])


def test_small_requests_have_segments_of_their_own() -> None:
    allocator = Segments(HUGE)
    allocator.replay([(key, 1000) for key in range(1000)])
    assert allocator.reserved == 2 * MIB
    allocator.take(1000, 5 * MIB)
    assert allocator.reserved == 22 * MIB


def test_pages_are_mapped_as_a_whole_and_no_more_than_there_are() -> None:
    allocator = Expandable(3 * LARGE_SEGMENT)
    allocator.take(1, MIB)
    assert allocator.reserved == LARGE_SEGMENT
    allocator.take(2, LARGE_SEGMENT)
    assert allocator.reserved == 2 * LARGE_SEGMENT
    with pytest.raises(RanOut):
        allocator.take(3, 2 * LARGE_SEGMENT)
    allocator.replay([(1, -1), (4, 2 * LARGE_SEGMENT - 2 * MIB)])
    assert allocator.reserved == 3 * LARGE_SEGMENT
