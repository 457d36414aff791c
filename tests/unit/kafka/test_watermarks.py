"""What waits, from what the broker says."""

from types import SimpleNamespace

import pytest
from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, KafkaError
from fake_clients import FakeMessage, failure

from fraudscale.config import KafkaSettings
from fraudscale.kafka import watermarks as module
from fraudscale.kafka.client import BrokerUnavailable
from fraudscale.kafka.watermarks import Waiting, Watermarks


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
        partitions = [SimpleNamespace(id=p) for p in range(3)]
        return {"in": SimpleNamespace(result=lambda: SimpleNamespace(partitions=partitions))}

    def list_offsets(self, asked, request_timeout):
        spec = next(iter(asked.values()))
        offset = 2 if spec == module.OffsetSpec.earliest() else 10
        self.order.append(offset)
        return {p: SimpleNamespace(result=lambda: SimpleNamespace(offset=offset)) for p in asked}


class FakeObserver:
    """The group's commits: 4, at the very beginning, and none; and records that are there to be looked at."""

    def __init__(self, admin):
        self.admin = admin
        self.messages = []
        self.assigned = []
        self.left = []

    def poll(self, seconds):
        """Hands log lines over."""

    def committed(self, partitions, seconds):
        self.admin.order.append("commits")
        found = {0: 4, 1: 0, 2: -1001}
        return [
            SimpleNamespace(partition=p.partition, offset=found[p.partition], error=None) for p in partitions
        ]

    def assign(self, partitions):
        self.assigned.append({p.partition: p.offset for p in partitions})

    def incremental_unassign(self, partitions):
        self.left += [p.partition for p in partitions]

    def unassign(self):
        """Ends a look."""

    def consume(self, count, seconds):
        taken, self.messages = self.messages[:count], self.messages[count:]
        return taken


@pytest.fixture
def asked(monkeypatch):
    """Watermarks, and what they ask."""
    admin = FakeAdmin()
    observer = FakeObserver(admin)
    monkeypatch.setattr(module, "admin_client", lambda _: admin)
    monkeypatch.setattr(module, "Consumer", lambda _: observer)
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.2)
    return SimpleNamespace(
        watermarks=Watermarks(KafkaSettings(kafka_topic="in")), admin=admin, observer=observer
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


def test_the_oldest_is_the_earliest_first_record_of_those_that_wait(asked):
    asked.observer.messages = [
        FakeMessage(0, 4, timestamp=(1, 3000)),
        FakeMessage(0, 5, timestamp=(1, 1)),
        FakeMessage(error=KafkaError(KafkaError._TRANSPORT), partition=None),
        FakeMessage(1, 2, timestamp=(1, 2000)),
    ]
    waiting = {0: Waiting(2, 10, 4), 1: Waiting(2, 10, None), 2: Waiting(2, 10, 10)}
    assert asked.watermarks.oldest(waiting) == 2000
    assert asked.observer.assigned == [{0: 4, 1: 2}]
    assert asked.observer.left == [0, 1]


def test_what_was_looked_at_is_not_looked_at_again_until_the_group_has_gone_on(asked):
    asked.observer.messages = [FakeMessage(0, 4, timestamp=(1, 3000))]
    for _ in range(2):
        assert asked.watermarks.oldest({0: Waiting(2, 10, 4)}) == 3000
    asked.observer.messages = [FakeMessage(0, 6, timestamp=(1, 5000))]
    assert asked.watermarks.oldest({0: Waiting(2, 10, 6)}) == 5000
    assert asked.observer.assigned == [{0: 4}, {0: 6}]


@pytest.mark.parametrize("timestamp", [None, (TIMESTAMP_NOT_AVAILABLE, -1)])
def test_without_a_timestamp_in_time_there_is_no_oldest(asked, timestamp):
    asked.observer.messages = [FakeMessage(0, 4, timestamp=timestamp)] if timestamp else []
    assert asked.watermarks.oldest({0: Waiting(2, 10, 4)}) is None


def test_a_look_that_fails_is_made_again_next_time(asked):
    asked.observer.consume = lambda *_: (_ for _ in ()).throw(failure(KafkaError._STATE))
    assert asked.watermarks.oldest({0: Waiting(2, 10, 4)}) is None


def test_nothing_is_looked_at_where_nothing_waits(asked):
    assert asked.watermarks.oldest({0: Waiting(2, 10, 10)}) is None
    assert asked.observer.assigned == []
