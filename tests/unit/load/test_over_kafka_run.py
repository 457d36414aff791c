"""A run over Kafka against a broker that is told what becomes of each record."""

import time
from queue import Empty, SimpleQueue

import pytest

from fraudscale.config import KafkaSettings
from fraudscale.kafka.headers import SourceRecord
from fraudscale.kafka.scores import CommittedScore
from fraudscale.load import over_kafka
from fraudscale.load.measure import Item, Measures, StopRequest


class Broker:
    """Takes records on and scores each as often as `scores` says; `full` refuses them, `broken` fails them."""

    def __init__(self):
        self.scores = lambda _: 1
        self.full = lambda: False
        self.broken = set()
        self.stamps = {}
        self.closed = []
        self._committed = SimpleQueue()

    def sender(self, _settings, _name, on_failure):
        self.on_failure = on_failure
        return self

    def reader(self, _settings, _name):
        return Reader(self._committed)

    def send(self, topic, key, _body, stamp):
        assert topic == "transactions"
        if self.full():
            return False
        self.stamps[key] = stamp
        if key in self.broken:
            self.on_failure(key, "_MSG_TIMED_OUT")
            return True
        for _ in range(self.scores(key)):
            self._committed.put(CommittedScore(key, 0, SourceRecord("transactions", 0, len(self.stamps))))
        return True

    def close(self, seconds):
        self.closed.append(seconds)


class Reader:
    def __init__(self, committed):
        self._committed = committed

    def read(self, _most, seconds):
        try:
            return [self._committed.get(timeout=seconds)]
        except Empty:
            return []

    def close(self):
        pass


@pytest.fixture
def broker(monkeypatch):
    found = Broker()
    monkeypatch.setattr(over_kafka, "TimedSender", found.sender)
    monkeypatch.setattr(over_kafka, "ScoreReader", found.reader)
    monkeypatch.setattr(over_kafka, "QUIET_SECONDS", 0.3)
    monkeypatch.setattr(over_kafka, "NAP_SECONDS", 0.01)
    return found


def load(count=20, rate=500, stop=None):
    measures = Measures(count / rate)
    items = iter([Item(n / rate, b"t%d" % n, b"{}") for n in range(count)])
    over_kafka.KafkaLoad(KafkaSettings(), items, measures, stop or StopRequest()).run(lambda _: None)
    return measures


def test_every_record_gets_its_score(broker):
    measures = load()
    assert (measures.sent, measures.ok, measures.missing, measures.duplicates) == (20, 20, 0, 0)
    assert broker.closed == [over_kafka.FLUSH_SECONDS]


def test_records_carry_the_instants_at_which_they_were_due(broker):
    before = time.time()
    load(count=3, rate=10)
    first, second, third = (broker.stamps[b"t%d" % n] for n in range(3))
    assert first == pytest.approx(1000 * before, abs=2000)
    assert (second - first, third - first) == (pytest.approx(100, abs=1), pytest.approx(200, abs=1))


def test_what_gets_no_score_in_time_is_missing(broker):
    broker.scores = lambda key: key != b"t3"
    measures = load()
    assert (measures.ok, measures.missing) == (19, 1)


def test_a_record_that_is_scored_twice_is_a_duplicate(broker):
    broker.scores = lambda key: 2 if key == b"t3" else 1
    measures = load()
    assert (measures.ok, measures.missing, measures.duplicates) == (20, 0, 1)


def test_a_record_that_the_client_gives_up_is_an_error_and_not_missing(broker):
    broker.broken = {b"t3"}
    measures = load()
    assert (measures.ok, measures.missing, dict(measures.errors)) == (19, 0, {"_MSG_TIMED_OUT": 1})


def test_a_stop_ends_the_sending_and_leaves_short_time_for_the_last_scores(broker):
    stop = StopRequest()
    broker.scores = lambda key: stop.ask() or 1 if key == b"t3" else 1
    measures = load(stop=stop)
    assert (measures.sent, measures.ok) == (4, 4)
    assert stop.at is not None
    assert broker.closed == [over_kafka.STOPPING_SECONDS]


def test_a_stop_while_there_is_no_room_leaves_the_record_unsent(broker):
    stop = StopRequest()
    broker.full = lambda: len(broker.stamps) == 2 and (stop.ask() or True)
    measures = load(stop=stop)
    assert (measures.sent, measures.ok, measures.missing) == (2, 2, 0)


@pytest.mark.parametrize("asked", [1, 2])
def test_after_a_stop_unscored_records_are_waited_for_a_little_and_after_a_second_one_not_at_all(
    broker, monkeypatch, asked
):
    monkeypatch.setattr(over_kafka, "STOPPING_SECONDS", 0.1 if asked == 1 else 60)
    monkeypatch.setattr(over_kafka, "QUIET_SECONDS", 60)
    stop = StopRequest()
    broker.scores = lambda _: [stop.ask() for _ in range(asked)] and 0
    began = time.monotonic()
    measures = load(stop=stop)
    assert time.monotonic() - began < 30
    assert (measures.sent, measures.missing) == (1, 1)
