"""One transaction at a time: which producer writes it, what becomes of a failure, and how long it is waited for."""

import time
from threading import Event

import pytest
import structlog
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from fake_clients import FakeProducer, failure
from structlog.testing import capture_logs

from fraudscale.config import KafkaSettings
from fraudscale.kafka import delivery as module
from fraudscale.kafka import producers
from fraudscale.kafka.client import BrokerLink, NotDelivered, ProducerFenced
from fraudscale.kafka.delivery import Delivery, OutputRefused, abort_open_transactions
from fraudscale.kafka.messages import Output
from fraudscale.metrics import KafkaMetrics

OUTPUTS = [Output("in.scored", b"k", b"v", []), Output("in.dead-letter", b"k", b"v", [])]


@pytest.fixture
def metrics():
    return KafkaMetrics(consumed="in", produced=())


@pytest.fixture
def delivery_of(monkeypatch, metrics):
    """`delivery_of(*producers)`: they are made in this order, for the ids that are asked for."""

    def make(*producers):
        made = iter(producers)
        monkeypatch.setattr(module, "transactional_producer", lambda *_, **__: next(made))
        settings, log = KafkaSettings(kafka_topic="in", kafka_group="g"), structlog.get_logger()
        link = BrokerLink("kafka:9092", log)
        return Delivery(settings, "name", "g-r", metrics=metrics, link=link, log=log)

    return make


def deliver(delivery, outputs=OUTPUTS, on_committed=lambda: None):
    offsets = [TopicPartition("in", 0, 7)]
    delivery.begin(5, outputs, offsets, lambda: "group", on_committed)


# --- the transactional id


def test_an_id_that_is_not_granted_yet_is_asked_for_with_the_same_producer(delivery_of):
    producer = FakeProducer(init_transactions=[failure(KafkaError._TIMED_OUT, retriable=True)])
    delivery = delivery_of(producer)
    with pytest.raises(KafkaException):
        delivery.ask_for_id()
    delivery.ask_for_id()
    delivery.ask_for_id()
    assert producer.names() == ["init_transactions"] * 2


def test_a_refused_producer_is_followed_by_a_new_one(delivery_of):
    spent, fresh = FakeProducer(init_transactions=failure(KafkaError._FATAL)), FakeProducer()
    delivery = delivery_of(spent, fresh)
    with pytest.raises(KafkaException):
        delivery.ask_for_id()
    delivery.ask_for_id()
    assert (spent.names(), fresh.names()) == (["init_transactions"], ["init_transactions"])


# --- what was left open


def test_the_first_transaction_touches_every_partition_and_is_aborted():
    producer = FakeProducer()
    abort_open_transactions(
        producer, ("in.scored", "in.dead-letter"), TopicPartition("in.dead-letter", 0, 0), "group"
    )
    assert producer.calls == [
        ("begin_transaction",),
        ("produce", "in.scored", 0),
        ("produce", "in.scored", 1),
        ("produce", "in.dead-letter", 0),
        ("send_offsets", [("in.dead-letter", 0, 0, None)], "group"),
        ("flush",),
        ("abort_transaction",),
    ]


@pytest.mark.parametrize("trouble", ["unsent", "missing topic"])
def test_what_could_not_be_touched_is_not_taken_for_ended(trouble):
    producer = FakeProducer()
    producer.unsent = int(trouble == "unsent")
    topics = ("in.scored", "none") if trouble == "missing topic" else ("in.scored",)
    with pytest.raises(KafkaException):
        abort_open_transactions(producer, topics, TopicPartition("in.dead-letter", 0, 0), "group")
    assert "abort_transaction" not in producer.names()


def test_open_transactions_are_aborted_once_per_producer(delivery_of):
    spent, fresh = FakeProducer(begin_transaction=[failure(KafkaError._STATE)]), FakeProducer()
    delivery = delivery_of(spent, fresh)
    delivery.ask_for_id()
    with pytest.raises(KafkaException):
        delivery.abort_open(lambda: "group")
    delivery.ask_for_id()
    delivery.abort_open(lambda: "group")
    delivery.abort_open(lambda: "group")
    assert fresh.names().count("abort_transaction") == 1


def test_an_abort_that_never_returns_is_given_up_with_its_producer(delivery_of, monkeypatch):
    monkeypatch.setattr(module, "ABORT_SECONDS", 0.05)
    spent, fresh, over = FakeProducer(), FakeProducer(), Event()
    spent.send_offsets_to_transaction = lambda *_: over.wait(60)
    delivery = delivery_of(spent, fresh)
    delivery.ask_for_id()
    with pytest.raises(KafkaException, match="didn't return"):
        delivery.abort_open(lambda: "group")
    over.set()
    delivery.ask_for_id()
    delivery.abort_open(lambda: "group")
    assert fresh.names().count("abort_transaction") == 1


# --- a transaction


def test_a_committed_transaction_is_counted_and_told(delivery_of, metrics):
    producer, told = FakeProducer(), []
    delivery = delivery_of(producer)
    delivery.ask_for_id()
    deliver(delivery, on_committed=lambda: told.append("committed"))
    delivery.settle()
    delivery.settle()
    assert producer.calls[1:] == [
        ("begin_transaction",),
        ("produce", "in.scored", -1),
        ("produce", "in.dead-letter", -1),
        ("send_offsets", [("in", 0, 7, None)], "group"),
        ("commit_transaction",),
    ]
    assert told == ["committed"]
    assert metrics.consumed.labels("in").value == 5
    assert metrics.transactions.labels("committed").value == 1


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (KafkaError._FENCED, ProducerFenced),
        (KafkaError.INVALID_PRODUCER_EPOCH, ProducerFenced),
        (KafkaError._TIMED_OUT, NotDelivered),
    ],
)
def test_a_transaction_that_fails_ends_its_producer_without_an_abort(delivery_of, metrics, code, kind):
    spent, fresh = FakeProducer(commit_transaction=failure(code)), FakeProducer()
    delivery, told = delivery_of(spent, fresh), []
    delivery.ask_for_id()
    deliver(delivery, on_committed=lambda: told.append("committed"))
    with capture_logs() as lines, pytest.raises(NotDelivered) as caught:
        delivery.settle()
    assert type(caught.value) is kind
    assert [line["event"] for line in lines] == ["producer_fenced"] * (kind is ProducerFenced)
    delivery.ask_for_id()
    assert fresh.names() == ["init_transactions"]
    assert "abort_transaction" not in spent.names()
    assert (told, metrics.consumed.labels("in").value) == ([], 0)
    assert metrics.transactions.labels("aborted").value == 1


def test_a_transaction_that_can_not_begin_is_not_delivered(delivery_of, metrics):
    delivery = delivery_of(FakeProducer(begin_transaction=failure(KafkaError._STATE)))
    delivery.ask_for_id()
    with pytest.raises(NotDelivered):
        deliver(delivery)
    assert not delivery.committing
    assert metrics.transactions.labels("aborted").value == 1


def test_what_nobody_expected_is_raised_where_it_is_noticed(delivery_of):
    delivery = delivery_of(FakeProducer(commit_transaction=ZeroDivisionError()))
    delivery.ask_for_id()
    deliver(delivery)
    with pytest.raises(ZeroDivisionError):
        delivery.settle()


# --- what the broker will never take


def refused(code):
    return KafkaError(code, "refused")


@pytest.mark.parametrize("code", sorted(producers.REFUSALS))
def test_a_refusal_for_good_is_told_from_other_failures(delivery_of, code):
    delivery = delivery_of(FakeProducer(commit_transaction=failure(code)))
    delivery.ask_for_id()
    deliver(delivery)
    with pytest.raises(OutputRefused) as caught:
        delivery.settle()
    assert (caught.value.refused, caught.value.records) == ((), 5)


def test_a_refusal_that_stops_the_writing_is_found_behind_the_state_of_the_producer(delivery_of):
    spent = FakeProducer(
        produce=failure(KafkaError._STATE), begin_transaction=[None, failure(KafkaError.INVALID_RECORD)]
    )
    delivery = delivery_of(spent)
    delivery.ask_for_id()
    with pytest.raises(OutputRefused):
        deliver(delivery)


def test_a_producer_in_a_wrong_state_without_a_cause_is_no_refusal(delivery_of):
    delivery = delivery_of(FakeProducer(produce=failure(KafkaError._STATE)))
    delivery.ask_for_id()
    with pytest.raises(NotDelivered) as caught:
        deliver(delivery)
    assert type(caught.value) is NotDelivered


def test_what_the_client_itself_refuses_is_named_with_all_others_of_the_batch(delivery_of):
    wrong = failure(KafkaError.MSG_SIZE_TOO_LARGE)
    delivery = delivery_of(FakeProducer(produce=[wrong, None, wrong]))
    delivery.ask_for_id()
    outputs = [Output("in.scored", b"%d" % i, b"v", []) for i in range(4)]
    with pytest.raises(OutputRefused) as caught:
        deliver(delivery, outputs)
    assert [output.key for output, _ in caught.value.refused] == [b"0", b"2"]


def test_written_singly_a_refused_output_is_named_and_one_that_fails_with_it_is_not(delivery_of):
    first, singly = FakeProducer(), FakeProducer()
    singly.reports = {
        b"1": refused(KafkaError.MSG_SIZE_TOO_LARGE),
        b"2": refused(KafkaError._PURGE_QUEUE),
    }
    delivery = delivery_of(first, singly)
    delivery.ask_for_id()
    assert delivery.write_singly(True)
    assert not delivery.write_singly(True)
    delivery.ask_for_id()
    with pytest.raises(OutputRefused) as caught:
        deliver(delivery, [Output("in.scored", b"%d" % i, b"v", []) for i in range(4)])
    assert [output.key for output, _ in caught.value.refused] == [b"1"]


def test_written_singly_a_refusal_that_stops_the_writing_before_it_is_reported_is_named(delivery_of):
    singly = FakeProducer(produce=[None, failure(KafkaError._STATE)])
    singly.reports, singly.reports_late = {b"0": refused(KafkaError.INVALID_RECORD)}, True
    delivery = delivery_of(singly)
    delivery.write_singly(True)
    delivery.ask_for_id()
    with pytest.raises(OutputRefused) as caught:
        deliver(delivery, [Output("in.scored", b"%d" % i, b"v", []) for i in range(4)])
    assert [output.key for output, _ in caught.value.refused] == [b"0"]


def test_written_singly_without_a_refusal_a_batch_is_committed(delivery_of, metrics):
    delivery = delivery_of(FakeProducer())
    delivery.write_singly(True)
    delivery.ask_for_id()
    deliver(delivery)
    delivery.settle()
    assert metrics.transactions.labels("committed").value == 1


def test_open_transactions_that_could_not_be_touched_spend_their_producer():
    producer = FakeProducer()
    producer.reports = {b"open": refused(KafkaError.INVALID_RECORD)}
    with pytest.raises(KafkaException):
        abort_open_transactions(producer, ("in.scored",), TopicPartition("in.dead-letter", 0, 0), "group")


# --- how long


def test_a_full_queue_makes_writing_wait(delivery_of):
    producer = FakeProducer(room=1)
    delivery = delivery_of(producer)
    delivery.ask_for_id()
    deliver(delivery)
    delivery.settle()
    assert producer.names().count("produce") == 2


def test_a_queue_that_stays_full_is_waited_for_until_the_deadline(delivery_of):
    producer = FakeProducer(room=1)
    producer.poll = lambda _: None
    delivery = delivery_of(producer)
    delivery.ask_for_id()
    began = time.monotonic()
    delivery.deadline = began - 1
    with pytest.raises(NotDelivered, match="no room"):
        deliver(delivery)
    assert time.monotonic() - began < 4


@pytest.mark.parametrize("limit", ["deadline", "settle"])
def test_a_commit_without_an_answer_is_given_up(delivery_of, monkeypatch, limit):
    answered = Event()
    producer = FakeProducer()
    producer.commit_transaction = lambda: answered.wait(10)
    if limit == "settle":
        monkeypatch.setattr(module, "SETTLE_SECONDS", 0.05)
    delivery = delivery_of(producer, FakeProducer())
    delivery.ask_for_id()
    deliver(delivery)
    assert delivery.committing
    if limit == "deadline":
        delivery.deadline = time.monotonic() + 0.05
    with pytest.raises(NotDelivered, match="too long"):
        delivery.settle()
    answered.set()
    assert delivery._producer is None


def test_a_dropped_delivery_takes_note_of_its_transaction_first(delivery_of, metrics):
    delivery = delivery_of(FakeProducer(), FakeProducer(commit_transaction=failure(KafkaError._FENCED)))
    with capture_logs():
        for _ in range(2):
            delivery.ask_for_id()
            deliver(delivery)
            delivery.drop()
    outcomes = [metrics.transactions.labels(name).value for name in ("committed", "aborted")]
    assert (outcomes, delivery._producer) == ([1, 1], None)
