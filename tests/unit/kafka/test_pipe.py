"""What the pipe does when partitions come and go and transactions fail, with a consumer that does it on demand."""

from concurrent.futures import Future
from copy import copy
from threading import Event

import pytest
import structlog
from confluent_kafka import OFFSET_INVALID, KafkaError, KafkaException, TopicPartition
from fake_clients import FakeProducer, failure
from structlog.testing import capture_logs

from fraudscale.config import KafkaSettings
from fraudscale.kafka import delivery
from fraudscale.kafka import pipe as pipe_module
from fraudscale.kafka.client import BrokerLink, BrokerUnavailable, NotDelivered
from fraudscale.kafka.group_protocol import GroupProtocol
from fraudscale.kafka.messages import Batch, Output, Record
from fraudscale.kafka.pipe import Pipe
from fraudscale.metrics import KafkaMetrics


def record(offset: int, *, partition: int = 0) -> Record:
    return Record("in", partition, offset, None, b"", (), 0)


def test_a_batch_knows_where_each_partition_goes_on():
    batch = Batch([record(4), record(9, partition=1), record(5), record(7)], 0.0)
    assert batch.partitions == {0, 1}
    assert batch.next_offsets() == {0: 8, 1: 10}


class FakeMessage:
    def __len__(self):
        return 1

    def __init__(self, partition, offset, error=None):
        self._values = {"topic": "in", "partition": partition, "offset": offset, "error": error}
        self._values |= {"key": None, "value": b"", "headers": None, "timestamp": (1, 0)}

    def __getattr__(self, name):
        return lambda: self._values[name]


class FakeConsumer:
    """Gives prepared messages out; `during` runs within the second `consume`, as the client's callbacks do."""

    def __init__(self, messages, during=lambda: None):
        self.messages = messages
        self.during = during
        self.unstable = set()
        self.paused = set()
        self.sought = []
        self.closed = False

    def consume(self, count, seconds):
        if count > 1:
            self.during()
        taken, self.messages = self.messages[:count], self.messages[count:]
        return taken

    def committed(self, places, seconds):
        """The group's commit is at offset 5 everywhere, and unknown where a transaction is open."""
        return [FakePlace(p.partition, p.partition in self.unstable) for p in places]

    def incremental_assign(self, places):
        """What is assigned is read at once."""
        self.assigned = [(p.partition, p.offset) for p in places]

    def pause(self, places):
        self.paused |= {p.partition for p in places}

    def resume(self, places):
        self.paused -= {p.partition for p in places}

    def seek(self, place):
        self.sought.append((place.partition, place.offset, place.leader_epoch))

    def position(self, places):
        """Every record came from a leader of epoch 9."""
        return [TopicPartition("in", p.partition, 0, leader_epoch=9) for p in places]

    def get_watermark_offsets(self, place, cached):
        return self.low, 1000

    low = 0

    def consumer_group_metadata(self):
        """As a member."""

    def close(self):
        self.closed = True


class FakePlace:
    """As the client answers: without a commit and with an error the offset is the same."""

    def __init__(self, partition, unstable):
        self.partition = partition
        self.offset = OFFSET_INVALID if unstable else 5
        self.leader_epoch = None if unstable else 3
        self.error = KafkaError(KafkaError.UNSTABLE_OFFSET_COMMIT) if unstable else None


def pipe_on(consumer, owned):
    pipe = Pipe(
        KafkaSettings(kafka_topic="in"),
        "r",
        metrics=KafkaMetrics(consumed="in", produced=()),
        link=BrokerLink("kafka:9092", structlog.get_logger()),
        log=structlog.get_logger(),
        on_owned=lambda _: None,
    )
    pipe._consumer, pipe._owned = consumer, frozenset(owned)
    pipe._delivery._producer, pipe._delivery._open_aborted = FakeProducer(), True
    return pipe


def places(batch):
    return [(r.partition, r.offset) for r in batch.records]


def test_records_of_a_partition_that_is_revoked_during_the_read_are_left_to_its_new_owner():
    consumer = FakeConsumer([FakeMessage(0, 5), FakeMessage(1, 7), FakeMessage(0, 6)])
    pipe = pipe_on(consumer, {0, 1})
    consumer.during = lambda: pipe._unassigned("revoked", [TopicPartition("in", 0)])
    with capture_logs():
        batch = pipe.read(10, 0)
    assert (places(batch), consumer.sought) == ([(1, 7)], [])


def test_a_partition_is_assigned_at_an_offset_in_numbers():
    """A logical one the client looks up itself, and its late answer would undo the seek to the commit."""
    consumer = FakeConsumer([])
    with capture_logs():
        pipe_on(consumer, set())._assigned(consumer, [TopicPartition("in", p) for p in (0, 1)])
    assert (sorted(consumer.assigned), consumer.paused) == ([(0, 0), (1, 0)], {0, 1})


def test_records_of_a_partition_that_comes_back_during_the_read_are_read_again():
    consumer = FakeConsumer([FakeMessage(0, 5), FakeMessage(1, 7), FakeMessage(0, 6)])
    pipe = pipe_on(consumer, {0, 1})

    def lost_and_back():
        pipe._unassigned("lost", [TopicPartition("in", 0)])
        pipe._assigned(consumer, [TopicPartition("in", 0)])

    consumer.during = lost_and_back
    with capture_logs():
        batch = pipe.read(10, 0)
        assert (places(batch), consumer.sought, consumer.paused) == ([(1, 7)], [], {0})
        consumer.during = lambda: None
        pipe.read(10, 0)
    assert (consumer.sought, consumer.paused) == ([(0, 5, 3)], set())


def test_a_partition_whose_commit_is_not_stable_waits_and_the_others_go_on(monkeypatch):
    monkeypatch.setattr(pipe_module, "LOOK_AGAIN_SECONDS", 0)
    consumer = FakeConsumer([FakeMessage(1, 7)])
    pipe = pipe_on(consumer, {1})
    consumer.unstable = {0}
    with capture_logs():
        pipe._assigned(consumer, [TopicPartition("in", 0)])
        assert places(pipe.read(10, 0)) == [(1, 7)]
        assert (consumer.sought, consumer.paused) == ([], {0})
        consumer.unstable = set()
        pipe.read(10, 0)
    assert (consumer.sought, consumer.paused) == ([(0, 5, 3)], set())


def test_a_partition_in_vain_looked_for_is_not_looked_for_at_every_read():
    consumer = FakeConsumer([])
    pipe = pipe_on(consumer, {0, 1})
    consumer.unstable = {0}
    with capture_logs():
        pipe._pause({0})
        pipe.read(10, 0)
        consumer.unstable = set()
        pipe.read(10, 0)
    assert (consumer.sought, consumer.paused) == ([], {0})


def test_a_failed_transaction_takes_its_producer_and_all_places_with_it():
    consumer = FakeConsumer([])
    pipe = pipe_on(consumer, {0, 1})
    pipe._delivery._in_flight = delivery._InFlight(1, lambda: None, float("inf"), Future())
    pipe._delivery._in_flight.done.set_exception(NotDelivered("no"))
    with pytest.raises(NotDelivered):
        pipe.finish()
    assert (pipe._delivery._producer, consumer.paused) == (None, {0, 1})


def test_a_fatal_error_begins_again_with_new_clients():
    fatal = KafkaError(KafkaError._FATAL, "fenced", True)
    consumer = FakeConsumer([FakeMessage(0, 5), FakeMessage(0, 0, fatal)])
    pipe = pipe_on(consumer, {0})
    with capture_logs() as lines:
        assert pipe.read(10, 0).records == []
    assert consumer.closed
    assert (pipe._consumer, pipe._owned) == (None, frozenset())
    assert [line["event"] for line in lines] == ["kafka_error"]


def test_an_error_that_passes_keeps_the_records_around_it():
    passing = KafkaError(KafkaError._TRANSPORT)
    consumer = FakeConsumer([FakeMessage(0, 5), FakeMessage(0, 0, passing), FakeMessage(0, 6)])
    with capture_logs():
        batch = pipe_on(consumer, {0}).read(10, 0)
    assert places(batch) == [(0, 5), (0, 6)]


def test_a_batch_that_is_given_back_is_read_again_once_its_place_is_found():
    consumer = FakeConsumer([])
    seek, refusals = consumer.seek, iter([True])

    def refuse_once(place):
        if next(refusals, False):
            raise KafkaException(KafkaError(KafkaError._STATE))
        seek(place)

    consumer.seek = refuse_once
    pipe = pipe_on(consumer, {0})
    with capture_logs():
        pipe.give_back(Batch([record(5)], 0.0))
        pipe.read(10, 0)
        assert (consumer.sought, consumer.paused) == ([], {0})
        pipe.read(10, 0)
    assert (consumer.sought, consumer.paused) == ([(0, 5, 3)], set())


def test_a_header_whose_name_is_not_utf_8_takes_its_record_through_without_headers():
    class Unreadable(FakeMessage):
        def headers(self):
            raise SystemError("returned a result with an exception set")

    pipe = pipe_on(FakeConsumer([Unreadable(0, 5), FakeMessage(0, 6)]), {0})
    assert [(r.offset, r.headers) for r in pipe.read(10, 0).records] == [(5, ()), (6, ())]


def test_what_was_committed_while_the_consumer_broke_is_counted():
    fatal = KafkaError(KafkaError._FATAL, "fenced", True)
    pipe = pipe_on(FakeConsumer([FakeMessage(0, 0, fatal)]), {0})
    told = []
    pipe._delivery._in_flight = delivery._InFlight(
        3, lambda: told.append("committed"), float("inf"), Future()
    )
    pipe._delivery._in_flight.done.set_result(None)
    with capture_logs():
        pipe._disconnect()
    assert told == ["committed"]
    assert pipe._delivery._consumed.value == 3


def test_errors_without_end_do_not_hold_a_read_up():
    class Failing(FakeConsumer):
        def consume(self, count, seconds):
            return [FakeMessage(0, 0, KafkaError(KafkaError._TRANSPORT))]

    with capture_logs():
        assert pipe_on(Failing([]), {0}).read(10, 0.05).records == []


def test_a_fatal_error_that_comes_as_an_event_begins_again_too():
    """As the client tells of it: the code is that of a fatal error, and the flag is not set."""
    consumer = FakeConsumer([FakeMessage(0, 0, KafkaError(KafkaError._FATAL))])
    pipe = pipe_on(consumer, {0})
    with capture_logs():
        pipe.read(10, 0)
    assert consumer.closed


@pytest.mark.parametrize("joined", [True, False])
def test_a_cluster_that_refuses_the_first_heartbeat_is_spoken_to_in_the_old_protocol(joined, monkeypatch):
    asked = []

    def choose(settings, *, refused):
        asked.append(refused)
        raise BrokerUnavailable("later")

    monkeypatch.setattr(pipe_module, "choose_protocol", choose)
    consumer = FakeConsumer([FakeMessage(0, 0, KafkaError(KafkaError._FATAL))])
    pipe = pipe_on(consumer, set())
    with capture_logs():
        if joined:
            pipe._assigned(consumer, [])
        pipe.read(10, 0)
        pipe.read(10, 0)
    assert asked == [not joined]


def test_a_protocol_is_told_when_it_changes(monkeypatch):
    answers = iter(
        [
            GroupProtocol("consumer", 6000, 1),
            GroupProtocol("consumer", 6000, 1),
            GroupProtocol("classic", 6000, 1),
        ]
    )
    monkeypatch.setattr(pipe_module, "choose_protocol", lambda *_, **__: next(answers))
    pipe = pipe_on(None, set())
    with capture_logs() as lines:
        assert [pipe._choose_protocol() for _ in range(3)] == ["consumer", "consumer", "classic"]
    assert [line["protocol"] for line in lines] == ["consumer", "classic"]


# --- a partition that is read apart


CAN_NOT_UNPACK = KafkaError(KafkaError._BAD_COMPRESSION)


def test_the_group_is_asked_where_it_stands_only_once_what_is_in_flight_has_ended():
    """Else a child would begin at the commit before, and what was in flight would be scored twice."""
    consumer = FakeConsumer([FakeMessage(0, 5), *[FakeMessage(0, 0, CAN_NOT_UNPACK)] * 3])
    pipe, commit = pipe_on(consumer, {0, 1}), FakePlace(0, unstable=False)
    producer = pipe._delivery._producer

    def commits(*_):
        asked.wait(0.3)
        commit.offset = 6

    asked, producer.commit_transaction = Event(), commits
    consumer.committed = lambda places, seconds: (asked.set(), [copy(commit)])[1]
    with capture_logs():
        batch = pipe.read(10, 0)
        pipe.deliver(batch, [Output("in.scored", b"k", b"v", [])])
        pipe._find_positions()
    assert places(batch) == [(0, 5)]
    assert [details[0][0][2] for name, *details in producer.calls if name == "send_offsets"] == [6]
    assert pipe._suspects._places[0].offset == 6


def test_a_partition_that_can_not_be_sought_behind_what_a_child_read_is_looked_for_anew():
    consumer = FakeConsumer([])
    pipe = pipe_on(consumer, {0, 1})
    pipe._suspects.read = lambda *_: (Batch([record(5)], 0.0), TopicPartition("in", 0, 6))
    pipe._suspects.their_turn = lambda: True

    def refuse(place):
        raise failure(KafkaError._STATE)

    consumer.seek = refuse
    with capture_logs():
        assert places(pipe.read(10, 0)) == [(0, 5)]
    assert (pipe._paused, consumer.paused) == ({0}, {0})


# --- how large a batch grows


def test_a_batch_is_no_larger_than_it_may_be_in_records():
    consumer = FakeConsumer([FakeMessage(0, i) for i in range(20)])
    assert len(pipe_on(consumer, {0}).read(7, 0.5).records) == 7


def test_a_batch_is_full_when_its_values_are_large(monkeypatch):
    monkeypatch.setattr(pipe_module, "BATCH_BYTES", 5)
    monkeypatch.setattr(pipe_module, "CHUNK_RECORDS", 2)
    consumer = FakeConsumer([FakeMessage(0, i) for i in range(20)])
    assert len(pipe_on(consumer, {0}).read(100, 0.5).records) == 5, "1, then 2 at once; each is one byte"


def test_a_silent_topic_is_waited_for_and_the_rest_of_a_batch_hardly():
    waits = []
    consumer = FakeConsumer([FakeMessage(0, i) for i in range(3)])
    consume = consumer.consume
    consumer.consume = lambda count, seconds: (waits.append((count, seconds)), consume(count, seconds))[1]
    pipe_on(consumer, {0}).read(100, 0.25)
    assert waits == [(1, 0.25), (99, pipe_module.LINGER_SECONDS)]


def test_while_a_batch_commits_the_next_one_grows_in_steps():
    waits = []
    consumer = FakeConsumer([])
    pipe = pipe_on(consumer, {0})
    pipe._delivery._in_flight = delivery._InFlight(1, lambda: None, float("inf"), Future())
    consume = consumer.consume
    consumer.consume = lambda count, seconds: (waits.append((count, seconds)), consume(count, seconds))[1]
    pipe.read(100, 0)
    assert waits == [(100, pipe_module.STEP_SECONDS)]


# --- when the broker is gone


def test_a_broker_that_grants_nothing_is_told_as_gone_and_asked_again(monkeypatch):
    pipe = pipe_on(None, set())
    monkeypatch.setattr(pipe, "_choose_protocol", lambda: "classic")

    def refuse():
        raise failure(KafkaError._TIMED_OUT, retriable=True)

    monkeypatch.setattr(pipe._delivery, "ask_for_id", refuse)
    with capture_logs() as lines:
        assert pipe.read(10, 0).records == []
        assert pipe.read(10, 0).records == []
    assert [line["event"] for line in lines] == ["broker_unavailable"]


def test_a_broker_that_refuses_the_transactional_id_is_there_and_says_so_once(monkeypatch):
    pipe = pipe_on(None, set())
    monkeypatch.setattr(pipe, "_choose_protocol", lambda: "classic")

    def refuse():
        raise failure(KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED)

    monkeypatch.setattr(pipe._delivery, "ask_for_id", refuse)
    with capture_logs() as lines:
        for _ in range(3):
            assert pipe.read(10, 0).records == []
    assert [line["event"] for line in lines] == ["broker_question_failed"]


def test_without_any_position_time_passes_within_the_group():
    consumer = FakeConsumer([FakeMessage(1, 7)])
    pipe = pipe_on(consumer, {0, 1})
    consumer.unstable = {0, 1}
    with capture_logs():
        pipe._pause({0, 1})
        consumer.paused = set()
        assert pipe.read(10, 0).records == []
    assert consumer.paused == {1}, "what came although it was paused is read again from the group's commit"


def test_open_transactions_that_can_not_be_aborted_keep_partitions_paused(monkeypatch):
    consumer = FakeConsumer([])
    pipe = pipe_on(consumer, {0})

    def fail(group):
        raise failure(KafkaError._STATE)

    monkeypatch.setattr(pipe._delivery, "abort_open", fail)
    with capture_logs() as lines:
        pipe._pause({0})
        pipe.read(10, 0)
    assert (consumer.sought, consumer.paused) == ([], {0})
    assert [line["event"] for line in lines] == ["kafka_error"]


def test_a_batch_that_is_not_delivered_takes_all_positions_with_it(monkeypatch):
    consumer = FakeConsumer([])
    pipe = pipe_on(consumer, {0, 1})

    def fail(*_):
        raise NotDelivered("no")

    monkeypatch.setattr(pipe._delivery, "begin", fail)
    with pytest.raises(NotDelivered):
        pipe.deliver(Batch([record(5)], 0.0), [])
    assert consumer.paused == {0, 1}


def test_a_batch_goes_on_where_its_partitions_do(monkeypatch):
    pipe, seen = pipe_on(FakeConsumer([]), {0, 1}), []
    monkeypatch.setattr(pipe._delivery, "begin", lambda *details: seen.append(details))
    pipe.deliver(Batch([record(5), record(9, partition=1), record(6)], 0.0), ["out"])
    ((count, outputs, offsets, _, _),) = seen
    assert (count, outputs) == (3, ["out"])
    assert [(p.partition, p.offset, p.leader_epoch) for p in offsets] == [(0, 7, 9), (1, 10, 9)]


def test_a_partition_that_does_not_go_on_at_its_commit_is_told_and_counted(monkeypatch):
    consumer = FakeConsumer([FakeMessage(0, 2), FakeMessage(1, 7), FakeMessage(2, 8)])
    pipe, consumer.low = pipe_on(consumer, {0, 1, 2}), 7
    monkeypatch.setattr(pipe._delivery, "begin", lambda *_: None)
    pipe._pause({0, 1, 2})
    with capture_logs() as lines:
        pipe.deliver(pipe.read(10, 0), [])
    assert [(x["event"], x["log_level"], x["kind"], x["partition"]) for x in lines] == [
        ("offset_reset", "error", "back", 0),
        ("offset_reset", "error", "lost", 1),
        ("offset_reset", "error", "lost", 2),
    ]
    assert {kind: pipe._resets.labels(kind).value for kind in ("back", "lost")} == {"back": 1, "lost": 2}


def test_a_member_reads_what_is_committed_and_commits_nothing_itself(monkeypatch):
    made = []
    monkeypatch.setattr(pipe_module, "Consumer", made.append)
    for protocol in ("classic", "consumer"):
        pipe_module._consumer(KafkaSettings(), "name", protocol)
    for config in made:
        assert (config["isolation.level"], config["enable.auto.commit"]) == ("read_committed", False)
    assert "session.timeout.ms" in made[0]
    assert "session.timeout.ms" not in made[1], "there the broker decides"


@pytest.mark.parametrize("paused", [False, True])
def test_a_client_that_raises_is_replaced(paused):
    consumer = FakeConsumer([])

    def fail(count, seconds):
        raise failure(KafkaError._STATE)

    consumer.consume = fail
    consumer.unstable = {0}
    pipe = pipe_on(consumer, {0})
    with capture_logs():
        if paused:
            pipe._pause({0})
        assert pipe.read(10, 0).records == []
    assert (consumer.closed, pipe._consumer) == (True, None)
