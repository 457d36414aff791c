"""What waits, from what the broker says."""

from types import SimpleNamespace

import pytest
from confluent_kafka import KafkaError
from fake_clients import failure

from fraudscale.config import KafkaSettings
from fraudscale.kafka import watermarks as module
from fraudscale.kafka.batch_headers import FirstRecord
from fraudscale.kafka.client import BrokerUnavailable
from fraudscale.kafka.watermarks import Scout, Waiting, Watermarks, oldest


@pytest.mark.parametrize(
    ("low", "end", "committed", "lag"),
    [
        (0, 10, None, 10),  # nothing committed: all that is there waits
        (4, 10, None, 6),
        (0, 10, 7, 3),
        (8, 10, 3, 2),  # retention overtook the group
        (0, 10, 10, 0),
        (0, 5, 9, 0),  # the topic was made anew
    ],
)
def test_lag_counts_what_waits_and_is_never_negative(low, end, committed, lag):
    assert Waiting(low, end, committed).lag == lag


@pytest.mark.parametrize(("first", "lag"), [(None, 3), (7, 3), (8, 2), (10, 0), (2, 3)])
def test_offsets_before_the_first_record_that_can_be_read_do_not_wait(first, lag):
    assert Waiting(0, 10, 7, first=first).lag == lag


def test_what_is_retained_is_what_lies_between_the_watermarks():
    assert [Waiting(4, 10, None).retained, Waiting(9, 5, None).retained] == [6, 0]


# --- asked of the broker


class FakeAdmin:
    """Partitions 0 to 2, each from 2 to 10; notes in which order things are asked."""

    def __init__(self):
        self.order = []
        self.fails = None

    def poll(self, seconds):
        """Hands log lines over."""

    def describe_topics(self, topics, request_timeout):
        if self.fails:
            raise failure(self.fails)
        partitions = [SimpleNamespace(id=p, leader=SimpleNamespace(host="h", port=p)) for p in range(3)]
        return {"in": SimpleNamespace(result=lambda: SimpleNamespace(partitions=partitions))}

    def list_offsets(self, asked, request_timeout):
        spec = next(iter(asked.values()))
        offset = 2 if spec == module.OffsetSpec.earliest() else 10
        self.order.append(offset)
        return {p: SimpleNamespace(result=lambda: SimpleNamespace(offset=offset)) for p in asked}


class FakeObserver:
    """The group's commits: 4, at the very beginning, and none."""

    def __init__(self, order):
        self.order = order

    def poll(self, seconds):
        """Hands log lines over."""

    def committed(self, partitions, seconds):
        self.order.append("commits")
        found = {0: 4, 1: 0, 2: -1001}
        return [
            SimpleNamespace(partition=p.partition, offset=found[p.partition], error=None) for p in partitions
        ]


def record(offset, timestamp=None):
    return FirstRecord(offset, there=True, timestamp=timestamp)


def end(offset, *, over=True):
    return FirstRecord(offset, there=False, timestamp=None, over=over)


@pytest.fixture
def looks(monkeypatch):
    """What looks find, by whether committed, and partition; `asked` has each look."""
    found = SimpleNamespace(asked=[], committed={}, uncommitted={})

    def look(address, topic, partition, offset, *, committed, until):
        assert until <= module.time.monotonic() + module.LOOK_SECONDS
        found.asked.append((address, partition, offset))
        answer = (found.committed if committed else found.uncommitted).get(partition)
        if answer is None:
            raise OSError("no answer")
        return answer

    monkeypatch.setattr(module, "first_record", look)
    return found


@pytest.fixture
def asked(monkeypatch, looks):
    """Watermarks, and what they ask."""
    admin = FakeAdmin()
    made = []
    monkeypatch.setattr(module, "admin_client", lambda _: made.append(admin) or admin)
    monkeypatch.setattr(module, "Consumer", lambda _: FakeObserver(admin.order))
    return SimpleNamespace(
        watermarks=Watermarks(KafkaSettings(kafka_topic="in")), admin=admin, made=made, looks=looks
    )


def test_a_commit_at_the_beginning_is_one_and_none_is_none(asked):
    assert asked.watermarks.waiting() == {
        0: Waiting(2, 10, 4),
        1: Waiting(2, 10, 0),
        2: Waiting(2, 10, None),
    }
    assert asked.admin.order == ["commits", 2, 10], "the other way round a lag could be below zero"


def test_a_broker_without_an_answer_is_named(asked):
    asked.admin.fails = KafkaError._TIMED_OUT
    with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1:9092: "):
        asked.watermarks.waiting()


def test_clients_without_an_answer_for_long_are_replaced(asked, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    asked.watermarks._answered = 100.0
    asked.admin.fails = KafkaError._TIMED_OUT
    for seconds, clients in ((30, 1), (31, 2), (61, 2), (62, 3)):
        now[0] = 100.0 + seconds
        with pytest.raises(BrokerUnavailable):
            asked.watermarks.waiting()
        assert len(asked.made) == clients, seconds


def test_what_waits_begins_with_the_first_record_that_the_group_can_read(asked):
    """Partition 0: a record behind a gap. 1: nothing but a gap. 2: a transaction is open behind a gap."""
    asked.looks.committed = {0: record(6, 3000), 1: end(10), 2: end(7)}
    asked.looks.uncommitted = {2: record(7, 2000)}
    waiting = asked.watermarks.waiting()
    assert asked.looks.asked == [(("h", 0), 0, 4), (("h", 1), 1, 2), (("h", 2), 2, 2), (("h", 2), 2, 7)]
    assert waiting == {
        0: Waiting(2, 10, 4, first=6, readable=True, timestamp=3000),
        1: Waiting(2, 10, 0, first=10),
        2: Waiting(2, 10, None, first=7, timestamp=2000),
    }
    assert [w.lag for w in waiting.values()] == [4, 0, 3]
    assert oldest(waiting) == 2000


def test_the_oldest_is_that_of_partitions_where_something_waits():
    assert oldest({0: Waiting(0, 9, 4, timestamp=3), 1: Waiting(0, 9, 4, timestamp=2)}) == 2
    assert oldest({0: Waiting(0, 9, 9, timestamp=3), 1: Waiting(0, 9, 4)}) is None


# --- looking


LEADERS = {0: ("h", 0), 1: ("h", 1)}


@pytest.fixture
def scout():
    return Scout("in", committed=True)


def test_what_was_found_is_not_looked_for_again_until_the_group_has_gone_on(scout, looks):
    looks.committed = {0: record(5, 3000)}
    for _ in range(2):
        assert scout.look(LEADERS, {0: 4}, {0: 9}) == {0: record(5, 3000)}
    looks.committed = {0: record(6, 5000)}
    assert scout.look(LEADERS, {0: 6}, {0: 9}) == {0: record(6, 5000)}
    assert [offset for _, _, offset in looks.asked] == [4, 6]


def test_an_end_is_looked_behind_once_the_partition_has_grown(scout, looks):
    looks.committed = {0: end(9)}
    for _ in range(2):
        assert scout.look(LEADERS, {0: 4}, {0: 9}) == {0: end(9)}
    looks.committed = {0: record(10, 1)}
    assert scout.look(LEADERS, {0: 4}, {0: 11}) == {0: record(10, 1)}
    assert [offset for _, _, offset in looks.asked] == [4, 9]


def test_a_look_that_is_not_over_goes_on_where_it_was_and_one_that_is_not_wanted_ends(scout, looks):
    looks.committed = {0: end(6, over=False), 1: end(7, over=False)}
    assert scout.look(LEADERS, {0: 4, 1: 4}, {0: 9, 1: 9}) == {}
    looks.committed = {0: record(7), 1: record(8)}
    assert scout.look(LEADERS, {0: 4, 1: 5}, {0: 9, 1: 9}) == {0: record(7), 1: record(8)}
    assert [offset for _, _, offset in looks.asked] == [4, 4, 6, 5]
    assert scout.look(LEADERS, {}, {}) == {}


def test_a_broker_that_gives_no_answer_is_asked_again_at_the_next_look(scout, looks):
    assert scout.look(LEADERS, {0: 4, 1: 4}, {0: 9, 1: 9}) == {}
    looks.committed = {1: record(4)}
    assert scout.look(LEADERS, {0: 4, 1: 4}, {0: 9, 1: 9}) == {1: record(4)}


def test_looks_end_when_their_time_is_over(scout, looks, monkeypatch):
    monkeypatch.setattr(module, "LOOK_SECONDS", -1)
    assert (scout.look(LEADERS, {0: 4}, {0: 9}), looks.asked) == ({}, [])
