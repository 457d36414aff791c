"""Committed scores, from the end of the topic on."""

from types import SimpleNamespace

import pytest
from confluent_kafka import KafkaError
from fake_clients import FakeMessage, failure

from fraudscale.config import KafkaSettings
from fraudscale.kafka import scores as module
from fraudscale.kafka.client import BrokerUnavailable
from fraudscale.kafka.headers import SourceRecord
from fraudscale.kafka.scores import CommittedScore, ScoreReader


class FakeConsumer:
    def __init__(self, messages=(), error=None, down=False):
        self.messages = list(messages)
        self.error, self.down = error, down
        self.assigned = []
        self.closed = False

    def list_topics(self, topic, seconds):
        if self.down:
            raise failure(KafkaError._TRANSPORT)
        found = SimpleNamespace(error=self.error, partitions={0: None, 1: None})
        return SimpleNamespace(topics={topic: found})

    def get_watermark_offsets(self, partition, seconds):
        return 0, 10 + partition.partition

    def assign(self, partitions):
        self.assigned = [(p.topic, p.partition, p.offset) for p in partitions]

    def consume(self, count, seconds):
        taken, self.messages = self.messages[:count], self.messages[count:]
        return taken

    def close(self):
        self.closed = True


def reader_of(monkeypatch, consumer):
    monkeypatch.setattr(module, "Consumer", lambda _: consumer)
    return ScoreReader(KafkaSettings(kafka_topic="in"), "name")


def test_it_begins_at_the_end_of_every_partition(monkeypatch):
    consumer = FakeConsumer()
    reader_of(monkeypatch, consumer).close()
    assert consumer.assigned == [("in.scored", 0, 10), ("in.scored", 1, 11)]
    assert consumer.closed


@pytest.mark.parametrize("trouble", [{"down": True}, {"error": KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART)}])
def test_without_a_broker_or_a_topic_it_says_so_and_lets_go(monkeypatch, trouble):
    consumer = FakeConsumer(**trouble)
    with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1:9092: "):
        reader_of(monkeypatch, consumer)
    assert consumer.closed


def test_a_score_names_its_input_record_where_it_can(monkeypatch):
    def unreadable():
        raise SystemError

    strange = FakeMessage(1)
    strange.headers = unreadable
    messages = [
        FakeMessage(0, headers=[("source-record", b"in/3/7")]),
        FakeMessage(error=KafkaError(KafkaError._TRANSPORT)),
        FakeMessage(1),
        strange,
    ]
    found = reader_of(monkeypatch, FakeConsumer(messages)).read(10, 0)
    assert found == [
        CommittedScore(b"k", 0, SourceRecord("in", 3, 7)),
        CommittedScore(b"k", 1, None),
        CommittedScore(b"k", 1, None),
    ]


def test_it_takes_no_more_than_it_is_asked_for(monkeypatch):
    reader = reader_of(monkeypatch, FakeConsumer([FakeMessage(0) for _ in range(5)]))
    assert [len(reader.read(3, 0)) for _ in range(3)] == [3, 2, 0]
