"""The loop from batch to batch, and its end."""

import time
from threading import Event
from types import SimpleNamespace

import pytest
import structlog
from confluent_kafka import KafkaError
from scored_records import PASSING_ON, failing_on, record, score
from structlog.testing import capture_logs

from fraudscale.config import KafkaSettings
from fraudscale.kafka.client import NotDelivered
from fraudscale.kafka.delivery import OutputRefused
from fraudscale.kafka.messages import Batch, Output, UnreadableRange
from fraudscale.kafka.refusals import SINGLY_RECORDS
from fraudscale.kafka.worker import ForcedStop, Worker
from fraudscale.metrics import KafkaMetrics, ModelMetrics


class FakePipe:
    """Gives the same batches out, and notes what it is asked to do."""

    owned = frozenset({0})

    def __init__(self, *batches: Batch, fails: int = 0) -> None:
        self.batches = list(batches)
        self.fails = fails
        self.delivered: list[tuple[Batch, list]] = []
        self.given_back: list[Batch] = []

    def read(self, max_records, seconds):
        return self.batches.pop(0) if self.batches else Batch([], 0.0)

    def deliver(self, batch, outputs, on_committed):
        if self.fails:
            self.fails -= 1
            raise NotDelivered("no")
        self.delivered.append((batch, list(outputs)))
        on_committed()

    def write_singly(self, singly):
        self.singly = singly

    def finish(self):
        """Nothing is in flight: each batch was committed at once."""

    def give_back(self, batch):
        self.given_back.append(batch)


class FakeScorer:
    lineup = None
    last_pass = (0.0, 0.0)
    score = staticmethod(score)


@pytest.fixture
def loop(monkeypatch):
    """`loop(pipe, scorer) -> (worker, metrics)`, with waits that take no time."""
    monkeypatch.setattr("fraudscale.kafka.worker.BACK_OFF_SECONDS", (0.0,))

    def make(pipe, scorer=FakeScorer):
        counts = ModelMetrics()
        settings = KafkaSettings(kafka_topic="in")
        messages = KafkaMetrics(consumed="in", produced=())
        return Worker(pipe, scorer, counts, messages, settings, structlog.get_logger(), PASSING_ON), counts

    return make


def test_a_batch_is_delivered_whole_and_bad_input_is_counted(loop):
    pipe = FakePipe(Batch([record(0), record(1, b"{")], 0.0))
    worker, counts = loop(pipe)
    with capture_logs():
        worker.step()
    ((_, outputs),) = pipe.delivered
    assert [o.topic for o in outputs] == ["in.scored", "in.dead-letter"]
    assert counts.errors.labels("validation").value == 1


def test_bad_input_that_was_not_delivered_is_not_counted_yet(loop):
    worker, counts = loop(FakePipe(Batch([record(1, b"{")], 0.0), fails=1))
    with capture_logs() as lines:
        worker.step()
    assert [line["event"] for line in lines] == ["batch_not_delivered"]
    assert counts.errors.labels("validation").value == 0


def test_a_refused_score_is_found_in_small_batches_and_becomes_a_dead_letter_at_once(loop):
    batch = Batch([record(0), record(1)], 0.0)
    pipe, most, finished = FakePipe(*[batch] * 3), [], []
    read, deliver = pipe.read, pipe.deliver
    score_of_1 = Output("in.scored", b"k1", b"v", [("source-record", "in/0/1")])
    wrong = (score_of_1, KafkaError(KafkaError.MSG_SIZE_TOO_LARGE, "too large"))
    refusals = iter([OutputRefused("no", (), 2), OutputRefused("no", [wrong], 2)])

    def refusing_twice(*details):
        if refusal := next(refusals, None):
            raise refusal
        deliver(*details)

    pipe.deliver = refusing_twice
    pipe.read = lambda count, seconds: (most.append((count, pipe.singly)), read(count, seconds))[1]
    pipe.finish = lambda: finished.append(True)
    worker, _ = loop(pipe)
    with capture_logs() as lines:
        for _ in range(4):
            worker.step()
    assert most == [(10_000, False), (SINGLY_RECORDS, True), (SINGLY_RECORDS, True), (10_000, False)]
    assert len(finished) == 1, "whether it was refused must be known before the next batch is read"
    ((_, outputs),) = pipe.delivered
    assert [(o.topic, o.key) for o in outputs] == [("in.scored", b"k0"), ("in.dead-letter", b"k1")]
    assert [(x["event"], x.get("retry_seconds")) for x in lines[:2]] == [("batch_not_delivered", 0.0)] * 2


def test_what_was_refused_in_a_partition_that_is_gone_is_forgotten(loop):
    pipe = FakePipe(Batch([record(7)], 0.0))
    worker, _ = loop(pipe)
    lost = Output("in.scored", b"k", b"v", [("source-record", "in/3/1")])
    worker._refusals.note(OutputRefused("no", [(lost, KafkaError(KafkaError.MSG_SIZE_TOO_LARGE))]))
    worker.step()
    assert not worker._refusals.pending


def test_a_range_that_nobody_can_read_is_one_dead_letter_and_counted_by_record(loop):
    pipe = FakePipe(Batch([], 0.0, UnreadableRange("in", 0, 5, 404, "400 records")))
    worker, _ = loop(pipe)
    with capture_logs() as lines:
        worker.step()
    ((_, (letter,)),) = pipe.delivered
    assert (letter.topic, letter.key) == ("in.dead-letter", b"in/0/5")
    assert worker._unreadable.value == 400
    assert [(x["event"], x["first_offset"], x["last_offset"]) for x in lines] == [("records_skipped", 5, 404)]


def test_a_broken_model_gives_the_batch_back(loop):
    scorer = FakeScorer()
    scorer.score = failing_on("t0")
    pipe = FakePipe(Batch([record(0)], 0.0))
    worker, counts = loop(pipe, scorer)
    with capture_logs() as lines:
        worker.step()
    assert (len(pipe.given_back), pipe.delivered) == (1, [])
    assert [line["event"] for line in lines] == ["model_broken"]
    assert counts.errors.labels("prediction").value == 1
    assert counts.active.labels().value == 0


def test_nothing_is_read_while_there_is_no_model(loop):
    class NoModelYet:
        @property
        def lineup(self):
            worker.stop()

    pipe = FakePipe()
    pipe.read = lambda *_: pytest.fail("a worker without a model has read")
    worker, _ = loop(pipe, NoModelYet())
    worker.run()


# --- stopping


@pytest.fixture
def timers(monkeypatch):
    """Timers that were started, as (seconds, what they do); none of them runs."""
    started = []

    class FakeTimer:
        def __init__(self, seconds, function, arguments):
            self.entry = seconds, lambda: function(*arguments)

        def start(self):
            started.append(self.entry)

    monkeypatch.setattr("fraudscale.kafka.worker.Timer", FakeTimer)
    return started


@pytest.fixture
def codes(monkeypatch):
    """Codes with which the process would have ended on the spot."""
    found = []
    monkeypatch.setattr("os._exit", found.append)
    return found


class Stoppable:
    def __init__(self):
        self.stopped = 0
        self.deadline = None

    def stop(self):
        self.stopped += 1

    def set_deadline(self, deadline):
        self.deadline = deadline


def test_a_signal_stops_the_worker_and_limits_the_time_for_it(timers, codes):
    both = Stoppable()
    ForcedStop(both, both, 8, structlog.get_logger()).begin()
    assert both.stopped == 1
    assert both.deadline - time.monotonic() == pytest.approx(6, abs=0.5)
    assert [seconds for seconds, _ in timers] == [8]
    assert not codes
    with capture_logs() as lines:
        timers[0][1]()
    assert (codes, [line["event"] for line in lines]) == ([1], ["stop_forced"])


def test_a_second_signal_ends_the_process_on_the_spot(timers, codes):
    both = Stoppable()
    stop = ForcedStop(both, both, 8, structlog.get_logger())
    stop.begin()
    with capture_logs() as lines:
        stop.again(2)
    assert (codes, both.stopped) == ([1], 1)
    assert [(line["event"], line["reason"]) for line in lines] == [("stop_forced", "second signal 2")]


def test_a_log_that_nobody_reads_does_not_hold_a_forced_stop_up(codes, monkeypatch):
    monkeypatch.setattr("fraudscale.kafka.worker.LAST_LINE_SECONDS", 0.05)
    read = Event()
    log = SimpleNamespace(warning=lambda *_, **__: read.wait(10))
    began = time.monotonic()
    ForcedStop(Stoppable(), Stoppable(), 8, log).again(2)
    took = time.monotonic() - began
    read.set()
    assert codes == [1]
    assert took < 5


# --- from batch to batch


def test_what_was_delivered_is_counted_by_topic(loop):
    worker, _ = loop(FakePipe(Batch([record(0), record(1, b"{"), record(2)], 0.0)))
    with capture_logs():
        worker.step()
    assert (worker._scored.value, worker._dead_lettered.value) == (2, 1)


def test_attempts_are_further_and_further_apart_until_one_succeeds(loop, monkeypatch):
    monkeypatch.setattr("fraudscale.kafka.worker.BACK_OFF_SECONDS", (0.0, 0.01, 0.02))
    batches = [Batch([record(0)], 0.0)] * 6
    worker, _ = loop(FakePipe(*batches, fails=4))
    with capture_logs() as lines:
        for _ in range(5):
            worker.step()
        worker._pipe.fails = 1
        worker.step()
    waits = [
        (line["attempt"], line["retry_seconds"]) for line in lines if line["event"] == "batch_not_delivered"
    ]
    assert waits == [(1, 0.0), (2, 0.01), (3, 0.02), (4, 0.02), (1, 0.0)]


def test_a_worker_with_a_model_works_until_it_is_stopped_and_finishes_what_is_in_flight(loop):
    class Ready(FakeScorer):
        lineup = object()

    class Stopping(FakePipe):
        def read(self, *limits):
            if len(self.batches) == 1:
                worker.stop()
            return super().read(*limits)

        def finish(self):
            raise NotDelivered("too late")

    pipe = Stopping(Batch([record(0, b"{")], 0.0), Batch([record(1)], 0.0), Batch([record(2)], 0.0))
    worker, _ = loop(pipe, Ready)
    with capture_logs() as lines:
        worker.run()
    assert len(pipe.delivered) == 3
    events = [line["event"] for line in lines]
    assert events[0] == "stream_started"
    assert events.count("batch_not_delivered") == 1
    assert events.count("dead_lettered") == 1


@pytest.mark.parametrize(("answers", "works"), [([0.5], True), ([], False), (ZeroDivisionError(), False)])
def test_a_model_works_if_it_scores_an_ordinary_transaction(loop, answers, works):
    def probabilities(transactions):
        if isinstance(answers, Exception):
            raise answers
        return answers

    scorer = FakeScorer()
    scorer.lineup = SimpleNamespace(champion=SimpleNamespace(probabilities=probabilities))
    assert loop(FakePipe(), scorer)[0]._model_works() is works
    assert loop(FakePipe())[0]._model_works() is False, "without a model none works"
