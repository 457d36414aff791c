"""Which partitions went on elsewhere than at the group's commit."""

import pytest

from fraudscale.kafka.messages import Batch, Record, UnreadableRange
from fraudscale.kafka.positions import Positions


def batch_of(*places):
    return Batch([Record("in", partition, offset, None, b"", (), 0) for partition, offset in places], 0.0)


def follow(positions, *places, low=0):
    batch = batch_of(*places)
    return positions.follow(batch, batch.next_offsets(), lambda partition: low)


def follow_range(positions, first, last, low):
    batch = Batch([], 0.0, UnreadableRange("in", 0, first, last, "too much"))
    return positions.follow(batch, batch.next_offsets(), lambda partition: low)


@pytest.fixture
def positions():
    """Partition 0 goes on at 5."""
    made = Positions()
    made.seek(0, 5)
    return made


@pytest.mark.parametrize("first", [5, 8])
def test_a_partition_that_goes_on_at_its_commit_or_behind_a_gap_is_as_it_should_be(positions, first):
    assert follow(positions, (0, first), (1, 3)) == []


def test_one_that_begins_before_its_commit_went_back_even_if_its_batch_ends_behind_it(positions):
    assert follow(positions, (0, 2), (0, 3), (0, 9)) == [("back", 0, 5, 2)]
    assert follow(positions, (0, 10)) == []


def test_one_whose_commit_retention_has_overtaken_lost_records(positions):
    assert follow(positions, (0, 8), low=7) == [("lost", 0, 5, 7)]


def test_one_that_retention_overtakes_under_way_lost_records_too(positions):
    assert follow(positions, (0, 5), (0, 6)) == []
    assert follow(positions, (0, 12), low=10) == [("lost", 0, 7, 10)]
    assert follow(positions, (0, 15), low=10) == []


def test_one_whose_records_retention_takes_once_they_are_read_lost_none(positions):
    assert follow(positions, (0, 5), (0, 6), low=7) == []
    assert follow(positions, (0, 7), (0, 8), low=9) == []


def test_what_can_not_be_read_is_where_its_range_begins(positions):
    assert follow_range(positions, 9, 20, low=9) == [("lost", 0, 5, 9)]
    assert follow_range(positions, 21, 30, low=9) == []


def test_where_no_offset_is_missing_nobody_asks_where_a_partition_begins(positions):
    asked = []

    def beginning(partition):
        asked.append(partition)
        return 0

    for places in ([(0, 5), (1, 3)], [(0, 6), (1, 4), (1, 5)], [(0, 7), (1, 7)]):
        batch = batch_of(*places)
        positions.follow(batch, batch.next_offsets(), beginning)
    assert asked == [1, 0, 1], "a partition without a commit, then those of a batch with a gap"


@pytest.mark.parametrize("low", [0, 5])
def test_one_whose_commit_is_still_there_lost_none(positions, low):
    assert follow(positions, (0, 8), low=low) == []


def test_one_that_goes_back_under_way_is_told_each_time(positions):
    assert follow(positions, (0, 5), (0, 6)) == []
    assert follow(positions, (0, 0), low=0) == [("back", 0, 7, 0)]
    assert follow(positions, (0, 1)) == []
    assert follow(positions, (0, 1)) == [("back", 0, 2, 1)]


def test_one_without_a_commit_may_begin_anywhere():
    assert follow(Positions(), (0, 0), low=0) == []


@pytest.mark.parametrize("forget", [lambda p: p.forget([0, 1]), lambda p: p.clear()])
def test_what_was_forgotten_is_not_expected(positions, forget):
    forget(positions)
    assert follow(positions, (0, 2), low=1) == []
