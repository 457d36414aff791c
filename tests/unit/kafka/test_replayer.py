"""How a replay reads up to the end, writes, and gives up."""

from threading import Event
from types import SimpleNamespace

import pytest
from confluent_kafka import KafkaError
from fake_clients import FakeMessage, FakeProducer, failure

from fraudscale.config import KafkaSettings
from fraudscale.kafka import replayer as module
from fraudscale.kafka.client import BrokerUnavailable, NotDelivered, ProducerFenced
from fraudscale.kafka.messages import Output
from fraudscale.kafka.replayer import PartitionState, RecordRefused, Replayer

OUTPUT = Output("in", b"k", b"v", [])
ENDS_WHAT_IS_OPEN = ["begin_transaction", "produce", "send_offsets", "flush", "abort_transaction"]
"""What each producer does first."""
END = KafkaError(KafkaError._PARTITION_EOF)


class FakeConsumer:
    """A topic of partitions 0 and 1, both from 2 to 10; the group's commit of 0 is at 4."""

    def __init__(self):
        self.messages = []
        self.assigned = []
        self.closed = False
        self.partitions = {1: None, 0: None}

    def list_topics(self, topic, seconds):
        error = None if self.partitions else KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART)
        return SimpleNamespace(topics={topic: SimpleNamespace(error=error, partitions=self.partitions)})

    def committed(self, partitions, seconds):
        found = {0: (4, "meta"), 1: (-1001, None)}
        return [
            SimpleNamespace(
                partition=p.partition,
                offset=found[p.partition][0],
                metadata=found[p.partition][1],
                error=None,
            )
            for p in partitions
        ]

    def get_watermark_offsets(self, partition, seconds):
        return 2, 10

    def assign(self, partitions):
        self.assigned = [(p.partition, p.offset) for p in partitions]

    def consume(self, count, seconds):
        taken, self.messages = self.messages[:count], self.messages[count:]
        return taken

    def consumer_group_metadata(self):
        return "group"

    def close(self):
        self.closed = True


@pytest.fixture
def consumer():
    return FakeConsumer()


@pytest.fixture
def opened(monkeypatch, consumer):
    """`opened(*producers)`: a replayer whose transactional producers are these."""

    def make(*producers, write=True):
        made = iter(producers)
        monkeypatch.setattr(module, "Consumer", lambda _: consumer)
        monkeypatch.setattr(module, "transactional_producer", lambda *_: next(made))
        replayer = Replayer(KafkaSettings(), "in.dead-letter", "g-replay")
        replayer.states = replayer.open(write=write)
        return replayer

    return make


def offsets(records):
    return [(r.partition, r.offset) for r in records]


def test_it_knows_where_each_partition_stands_and_fences_others(opened):
    producer = FakeProducer()
    replayer = opened(producer)
    assert replayer.states == {0: PartitionState(2, 10, 4, "meta"), 1: PartitionState(2, 10, None, "")}
    assert producer.names() == ["init_transactions", *ENDS_WHAT_IS_OPEN]


def test_to_look_only_fences_nobody(opened):
    assert opened(write=False).states.keys() == {0, 1}


def test_a_missing_topic_is_named(opened, consumer):
    consumer.partitions = {}
    with pytest.raises(BrokerUnavailable, match=r"topic in\.dead-letter"):
        opened(write=False)


def test_it_reads_to_the_end_that_it_saw_and_no_further(opened, consumer):
    replayer = opened(write=False)
    replayer.seek({0: 4, 1: 10})
    assert consumer.assigned == [(0, 4)], "of partition 1 there is nothing to read"
    consumer.messages = [FakeMessage(0, 8), FakeMessage(0, 9), FakeMessage(0, 10), FakeMessage(0, 11)]
    assert offsets(replayer.read()) == [(0, 8), (0, 9)]
    assert (replayer.read(), replayer.reached) == ([], {0: 10})


def test_marks_of_transactions_at_the_end_count_as_read(opened, consumer):
    replayer = opened(write=False)
    replayer.seek({0: 4, 1: 4})
    consumer.messages = [FakeMessage(0, 10, error=END), FakeMessage(1, 10, error=END)]
    assert (replayer.read(), replayer.reached) == ([], {0: 10, 1: 10})


def test_a_broker_that_sends_nothing_more_is_given_up(opened, monkeypatch):
    monkeypatch.setattr(module, "SILENCE_SECONDS", 0)
    replayer = opened(write=False)
    replayer.seek({0: 4, 1: 4})
    with pytest.raises(BrokerUnavailable, match="sends nothing more"):
        replayer.read()


def test_only_a_fatal_error_ends_the_reading(opened, consumer):
    replayer = opened(write=False)
    replayer.seek({0: 4, 1: 4})
    consumer.messages = [FakeMessage(error=KafkaError(KafkaError._TRANSPORT)), FakeMessage(0, 5)]
    assert offsets(replayer.read()) == [(0, 5)]
    consumer.messages = [FakeMessage(error=KafkaError(KafkaError._FATAL, "gone", True))]
    with pytest.raises(BrokerUnavailable, match="gone"):
        replayer.read()


def test_records_and_positions_go_in_one_transaction(opened):
    producer = FakeProducer(room=2)
    producer.produce = lambda topic, *_, **__: FakeProducer.produce(producer, topic)
    replayer = opened(producer)
    replayer.send([OUTPUT, OUTPUT], {0: (5, "meta")})
    assert producer.calls[6:] == [
        ("begin_transaction",),
        ("produce", "in", -1),
        ("produce", "in", -1),
        ("flush",),
        ("send_offsets", [("in.dead-letter", 0, 5, "meta")], "group"),
        ("commit_transaction",),
    ]


@pytest.mark.parametrize(
    ("code", "kind"),
    [(KafkaError._TIMED_OUT, NotDelivered), (KafkaError._FENCED, ProducerFenced)],
)
def test_what_fails_is_aborted_and_named(opened, code, kind):
    producer = FakeProducer(
        commit_transaction=failure(code), abort_transaction=[None, failure(KafkaError._STATE)]
    )
    replayer = opened(producer)
    with pytest.raises(NotDelivered) as caught:
        replayer.send([OUTPUT], {0: (5, "")})
    assert type(caught.value) is kind
    assert producer.names()[-1] == "abort_transaction"


def test_a_record_that_is_too_large_is_told_from_the_others_that_fail_with_it(opened):
    spent, fresh = FakeProducer(commit_transaction=failure(KafkaError._STATE)), FakeProducer()
    replayer = opened(spent, fresh)
    reports = [KafkaError._PURGE_QUEUE, KafkaError.MSG_SIZE_TOO_LARGE, KafkaError._PURGE_QUEUE]
    replayer._producer.flush = lambda _: [replayer._on_failure(KafkaError(code), None) for code in reports]
    with pytest.raises(RecordRefused) as caught:
        replayer.send([OUTPUT], {0: (5, "")})
    assert caught.value.too_large
    replayer.send([OUTPUT], {0: (5, "")})
    assert fresh.names()[-1] == "commit_transaction", "the client's first producer is spent"


def test_a_producer_that_has_no_successor_ends_the_replay_in_words(opened):
    spent = FakeProducer(commit_transaction=failure(KafkaError.INVALID_RECORD))
    replayer = opened(spent, FakeProducer(init_transactions=failure(KafkaError._TIMED_OUT)))
    with pytest.raises(NotDelivered, match="run it again") as caught:
        replayer.send([OUTPUT], {0: (5, "")})
    assert type(caught.value) is NotDelivered


def test_a_call_that_never_returns_is_given_up(opened, monkeypatch):
    monkeypatch.setattr(module, "CALL_SECONDS", 0.05, raising=False)
    producer, over = FakeProducer(), Event()
    replayer = opened(producer)
    producer.send_offsets_to_transaction = lambda *_: over.wait(5)
    with pytest.raises(NotDelivered, match="didn't return"):
        replayer.send([OUTPUT], {0: (5, "")})
    over.set()


def test_its_end_aborts_what_is_open(opened, consumer):
    producer = FakeProducer(abort_transaction=[None, failure(KafkaError._STATE)])
    opened(producer).close()
    assert (producer.names()[-1], consumer.closed) == ("abort_transaction", True)
