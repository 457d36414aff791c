"""Single records: what is lost, what is told, and how long the end waits."""

import pytest
from confluent_kafka import KafkaError
from fake_clients import FakeMessage, FakeProducer, failure

from fraudscale.config import KafkaSettings
from fraudscale.kafka import producers
from fraudscale.kafka.client import BrokerUnavailable
from fraudscale.kafka.producers import Sender, TimedSender, idempotent_producer, transactional_producer


@pytest.fixture
def fake(monkeypatch):
    """The producer that is made, and its settings."""
    made = FakeProducer()

    def make(settings):
        made.settings = settings
        return made

    monkeypatch.setattr(producers, "Producer", make)
    return made


def test_a_sender_without_room_says_so(fake):
    sender = Sender(KafkaSettings(), "name")
    fake.poll, fake.room = lambda _: None, 1
    sender.send("in", "k", b"v")
    with pytest.raises(BrokerUnavailable, match="queue is full"):
        sender.send("in", "k", b"v")
    sender.close(1)
    assert fake.names() == ["produce", "flush"]


def test_a_sender_whose_records_are_given_up_says_so_until_one_is_taken(fake):
    sender = Sender(KafkaSettings(), "name")
    sender.send("in", "k", b"v")
    sender._delivered(KafkaError(KafkaError._MSG_TIMED_OUT), None)
    for _ in range(2):
        with pytest.raises(BrokerUnavailable, match="takes no records"):
            sender.send("in", "k", b"v")
    sender._delivered(None, None)
    sender.send("in", "k", b"v")
    assert fake.names() == ["produce"] * 4
    assert fake.settings["delivery.report.only.error"] is False


@pytest.mark.parametrize(
    ("code", "made"), [(KafkaError._FATAL, 2), (KafkaError._STATE, 1)], ids=["fatal", "other"]
)
def test_a_sender_says_what_its_producer_raises_and_replaces_one_that_is_spent(monkeypatch, code, made):
    producers_made = [FakeProducer(produce=[failure(code), None]), FakeProducer()]
    left = iter(producers_made)
    monkeypatch.setattr(producers, "Producer", lambda _: next(left))
    sender = Sender(KafkaSettings(), "name")
    with pytest.raises(BrokerUnavailable, match="takes no records"):
        sender.send("in", "k", b"v")
    sender.send("in", "k", b"v")
    assert len(list(left)) == 2 - made


def test_a_timed_sender_hardly_lingers_and_waits_for_room(fake):
    failed = []
    sender = TimedSender(KafkaSettings(), "name", lambda *why: failed.append(why))
    assert fake.settings["linger.ms"] == 1
    fake.room = 0
    fake.poll = lambda seconds: setattr(fake, "room", int(seconds > 0))
    assert [sender.send("in", b"k", b"v", 1) for _ in range(2)] == [False, False]
    fake.room = 1
    fake.poll = lambda _: None
    assert sender.send("in", b"k", b"v", 1)
    sender._report(None, None)
    sender._report(KafkaError(KafkaError._MSG_TIMED_OUT), FakeMessage(key=b"late"))
    assert failed == [(b"late", "_MSG_TIMED_OUT")]


@pytest.mark.parametrize(("unsent", "calls"), [(0, ["flush"]), (3, ["flush", "purge", "flush"])])
def test_what_a_timed_sender_could_not_write_fails_at_its_end(fake, unsent, calls):
    fake.unsent = unsent
    TimedSender(KafkaSettings(), "name", lambda *_: None).close(1)
    assert fake.names() == calls


def test_every_producer_writes_each_record_once_to_the_partition_that_java_chooses(fake):
    for make in (lambda: idempotent_producer(KafkaSettings(), "n", {}), lambda: Sender(KafkaSettings(), "n")):
        make()
        assert (fake.settings["enable.idempotence"], fake.settings["acks"]) == (True, "all")
        assert fake.settings["partitioner"] == "murmur2_random"
    transactional_producer(KafkaSettings(), "n", "g-r")
    assert (fake.settings["transactional.id"], fake.settings["transaction.timeout.ms"]) == ("g-r", 5000)
