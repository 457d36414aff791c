import re
import time
from datetime import UTC, datetime
from random import Random

import msgspec
import pytest
import structlog
from structlog.testing import capture_logs

from fraudscale.config import KafkaSettings
from fraudscale.kafka.batch_trace import BatchSpans
from fraudscale.kafka.client import MAX_RECORD_BYTES, BrokerUnavailable, Link, NotDelivered
from fraudscale.kafka.messages import Batch, Record
from fraudscale.kafka.watermarks import Waiting
from fraudscale.kafka.worker import (
    LONGEST_DETAIL,
    DeadLetter,
    DeadLetterLog,
    LagReporter,
    ModelBroken,
    Stop,
    Stream,
    dead_letter,
    plan,
    rfc3339,
)
from fraudscale.metrics import KafkaMetrics, ModelMetrics
from fraudscale.scoring.records import Scores
from fraudscale.scoring.scorer import PredictionFailed
from fraudscale.telemetry.tracing import NO_TRACES, Tracer

SPAN, OTHER = "b" * 16, "c" * 16
SAMPLED, UNSAMPLED = f"00-{'a' * 32}-{SPAN}-01", f"00-{'d' * 32}-{OTHER}-00"
PASSING_ON = Tracer(1.0, 50, None, Random(1))
"""As where no collector is set."""
NOW = datetime(2026, 11, 23, 10, tzinfo=UTC)
GOOD = {
    "amount": 12.5,
    "merchant_category": "grocery",
    "hour": 13,
    "day_of_week": 2,
    "user_age": 34,
    "account_balance": 100.0,
}


def record(offset: int, value: bytes | None = None, *, partition: int = 0, **more) -> Record:
    body = msgspec.json.encode(GOOD | {"transaction_id": f"t{offset}"}) if value is None else value
    more = {"headers": (), "timestamp": 1_700_000_000_123} | more
    return Record("in", partition, offset, f"k{offset}".encode(), body, **more)


def score(transactions, started, *, traces=NO_TRACES, final=True):
    assert len(transactions) == len(started) > 0
    many = len(transactions)
    return Scores(
        transactions,
        [0.1] * many,
        [False] * many,
        [0.9] * many,
        [1.0] * many,
        "7",
        "2026-11-23T10:00:00Z",
        "r",
    )


def failing_on(*ids):
    def scored(transactions, started, *, traces=NO_TRACES, final=True):
        if any(t.transaction_id in ids for t in transactions):
            raise PredictionFailed("model 7 failed: no")
        return score(transactions, started)

    return scored


def planned(records, score=score, *, works=True, tracer=PASSING_ON):
    return plan(Batch(records, 0.0), score, lambda: works, "in.scored", tracer)


# --- what becomes of a batch


def test_every_record_is_scored_or_dead():
    result = planned([record(0), record(1, b"{"), record(2)])
    assert [dict(o.headers)["source-record"] for o in result.scored] == ["in/0/0", "in/0/2"]
    assert [d.record.offset for d in result.dead] == [1]
    assert result.scores == 2


def test_a_score_keeps_the_key_and_says_where_it_came_from():
    (output,) = planned([record(5, partition=3)]).scored
    assert (output.topic, output.key) == ("in.scored", b"k5")
    assert output.headers == [("source-record", "in/3/5")]


def test_a_score_holds_transaction_prediction_and_the_time_of_the_record():
    value = msgspec.json.decode(next(iter(planned([record(5)]).scored)).value)
    assert value.items() >= {"transaction_id": "t5", "amount": 12.5, "model_version": "7"}.items()
    assert (value["event_time"], value["schema_version"]) == ("2023-11-14T22:13:20.123Z", 1)


def test_the_trace_goes_on_and_other_headers_do_not():
    headers = [("traceparent", SAMPLED.encode()), ("tracestate", b"v=1"), ("secret", b"x")]
    without, output = planned([record(0), record(1, headers=headers)]).scored
    assert "traceparent" not in dict(without.headers)
    assert dict(output.headers).items() >= {"traceparent": SAMPLED, "tracestate": "v=1"}.items()
    assert not {"secret", "baggage"} & dict(output.headers).keys()


def test_each_score_of_a_large_batch_is_that_of_its_record():
    records = [record(i) for i in range(1201)]
    for i in (0, 499, 500, 1200):
        records[i] = record(i, headers=[("traceparent", f"00-{i:032x}-{SPAN}-00")])
    outputs = list(planned(records).scored)
    assert [o.key for o in outputs] == [r.key for r in records]
    assert [msgspec.json.decode(o.value)["transaction_id"] for o in outputs] == [f"t{i}" for i in range(1201)]
    traces = {i: dict(o.headers)["traceparent"] for i, o in enumerate(outputs) if len(o.headers) > 1}
    assert traces == {i: f"00-{i:032x}-{SPAN}-00" for i in (499, 500, 1200)}


def test_what_is_no_trace_does_not_go_on():
    (output,) = planned([record(0, headers=[("traceparent", b"00-1")])]).scored
    assert "traceparent" not in dict(output.headers)


def test_each_transaction_is_scored_with_its_own_trace():
    seen = []

    def scored(transactions, started, *, traces, final):
        seen.append(
            {transactions[i].transaction_id: trace.caller or trace.here for i, trace in traces.items()}
        )
        if len(transactions) > 1:
            raise PredictionFailed("model 7 failed: together")
        return score(transactions, started)

    records = [
        record(0, b"{", headers=[("traceparent", SAMPLED)]),
        record(1),
        record(2, headers=[("traceparent", SAMPLED)]),
        record(3, headers=[("traceparent", UNSAMPLED)]),
    ]
    result = planned(records, scored)
    together, *singly = [{name: place.span_id for name, place in traces.items()} for traces in seen]
    assert together == {"t2": SPAN, "t3": OTHER}
    assert singly == [{}, {"t2": SPAN}, {"t3": OTHER}]
    assert [dict(o.headers).get("traceparent") for o in result.scored] == [None, SAMPLED, UNSAMPLED]
    assert result.dead[0].trace.here.span_id == SPAN


def test_a_record_that_gets_a_span_names_it_in_its_score():
    tracer = Tracer(0.0, 50, lambda _: None, Random(1))
    records = [record(0, headers=[("traceparent", h)]) for h in (SAMPLED, UNSAMPLED)]
    result = planned(records, tracer=tracer)
    (recorded,) = result.recorded
    ours, passed_on = [dict(o.headers)["traceparent"] for o in result.scored]
    assert ours == recorded.trace.here.traceparent != SAMPLED
    assert ours.startswith(SAMPLED[:36])
    assert passed_on == UNSAMPLED


def test_spans_of_a_batch_and_of_its_records_are_linked_both_ways():
    spans = []
    tracer = Tracer(0.0, 50, spans.extend, Random(1))
    batch = Batch([record(0), record(1, headers=[("traceparent", SAMPLED)])], 10.0)
    result = plan(batch, score, lambda: True, "in.scored", tracer)
    BatchSpans(
        tracer, "group", "in", batch.read_at, len(batch.records), result.recorded, (11.0, 12.0), 13.0
    ).end(14.0)
    of_record, whole, *stages = spans
    assert (of_record.name, of_record.here.trace_id, of_record.caller.span_id) == (
        "process in",
        "a" * 32,
        SPAN,
    )
    assert (
        of_record.attributes.items()
        >= {"messaging.kafka.offset": 1, "fraudscale.transaction_id": "t1"}.items()
    )
    assert whole.attributes["messaging.batch.message_count"] == 2
    assert [link.span_id for link in whole.links] == [SPAN]
    assert of_record.links == [whole.here]
    assert whole.here.trace_id != of_record.here.trace_id
    assert [(s.name, s.started, s.ended, s.caller) for s in stages] == [
        ("decode", 10.0, 11.0, whole.here),
        ("model", 11.0, 12.0, whole.here),
        ("produce", 13.0, 14.0, whole.here),
    ]


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (b"", ""),
        (b"\xff", ""),
        (b"[" * 100_000, ""),
        (b"{}", "transaction_id"),
        (b"null", ""),
        (msgspec.json.encode(GOOD | {"transaction_id": "t", "hour": 24}), "hour"),
        (msgspec.json.encode(GOOD | {"transaction_id": "t"}).replace(b"12.5", b"NaN"), ""),
        (msgspec.json.encode(GOOD | {"transaction_id": "t"}).replace(b"12.5", b"1e999"), "amount"),
    ],
)
def test_what_is_no_transaction_is_a_dead_letter_that_names_the_field(value, field):
    (letter,) = planned([record(0, value)]).dead
    assert (letter.reason, letter.field) == ("validation", field)


def test_a_tombstone_is_a_dead_letter():
    tombstone = Record("in", 0, 0, b"k", None, (), 0)
    (letter,) = planned([tombstone]).dead
    assert "tombstone" in letter.detail


def test_a_batch_of_bad_records_never_reaches_the_model():
    assert len(planned([record(0, b"{"), record(1, b"")]).dead) == 2


# --- a model that fails


def test_the_record_that_breaks_the_model_is_found_and_the_others_are_scored():
    result = planned([record(i) for i in range(5)], failing_on("t3"))
    assert [(d.record.offset, d.reason) for d in result.dead] == [(3, "prediction")]
    assert result.scores == len(list(result.scored)) == 4


def test_a_record_alone_in_its_batch_is_found_too():
    result = planned([record(3)], failing_on("t3"))
    assert [d.reason for d in result.dead] == ["prediction"]


def test_a_model_that_fails_on_anything_condemns_no_record():
    with pytest.raises(ModelBroken, match="model 7 failed"):
        planned([record(i) for i in range(3)], failing_on("t0", "t1", "t2"), works=False)


# --- dead letters


def test_a_dead_letter_keeps_bytes_and_key_and_tells_why_and_from_where():
    letter = DeadLetter(record(9, b"\xff", partition=2), "validation", "hour", "Expected `int` <= 23")
    output = dead_letter(letter, "in.dead-letter", NOW)
    assert (output.topic, output.key, output.value) == ("in.dead-letter", b"k9", b"\xff")
    headers = dict(output.headers)
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-00", headers.pop("traceparent"))
    assert headers == {
        "reason": "validation",
        "error-field": "hour",
        "error-detail": b"Expected `int` <= 23",
        "first-seen": "2026-11-23T10:00:00Z",
        "source-record": "in/2/9",
    }


def test_a_dead_letter_keeps_the_headers_of_others():
    came = [("traceparent", b"00-1"), ("own", None)]
    output = dead_letter(DeadLetter(record(0, headers=came), "validation", "", ""), "dead", NOW)
    assert output.headers[:2] == came


def test_a_replayed_record_that_fails_again_keeps_its_first_time_and_has_each_header_once():
    came = [("first-seen", b"2026-01-01T00:00:00Z"), ("reason", b"prediction"), ("source-record", b"in/0/1")]
    output = dead_letter(DeadLetter(record(8, headers=came), "validation", "", ""), "dead", NOW)
    names = [name for name, _ in output.headers]
    assert len(names) == len(set(names))
    assert dict(output.headers)["first-seen"] == b"2026-01-01T00:00:00Z"
    assert dict(output.headers)["source-record"] == "in/0/8"


def test_a_record_too_large_for_its_dead_letter_goes_without_value_and_headers():
    large = record(9, b"{" + b" " * MAX_RECORD_BYTES, partition=2, headers=[("own", b"x")])
    output = dead_letter(DeadLetter(large, "validation", "", "not JSON"), "dead", NOW)
    assert (output.key, output.value) == (b"k9", None)
    headers = dict(output.headers)
    assert "own" not in headers
    assert headers["source-record"] == "in/2/9"
    assert headers["error-detail"].startswith(b"not JSON (too large for a dead letter")


def test_the_detail_of_a_dead_letter_is_bounded():
    output = dead_letter(DeadLetter(record(0), "prediction", "", "x" * 10_000), "dead", NOW)
    assert len(dict(output.headers)["error-detail"]) == LONGEST_DETAIL


def test_dead_letters_are_logged_together_and_seldom():
    letters = [DeadLetter(record(i), "validation", "hour", "no") for i in range(3)]
    with capture_logs() as lines:
        log = DeadLetterLog(structlog.get_logger())
        log.add(letters[:1])
        log.add(letters)
        log.add(letters)
        log.flush()
        log.flush()
    assert [line["count"] for line in lines] == [1, 6]
    assert lines[0]["first_source"] == "in/0/0"


# --- small things


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_700_000_000_007, "2023-11-14T22:13:20.007Z"),
        (2**62, "9999-12-31T23:59:59.999Z"),
    ],
)
def test_times_are_rfc_3339_whatever_a_producer_sends(milliseconds, text):
    assert rfc3339(milliseconds) == text


# --- the loop


class FakePipe:
    """Gives the same batches out, and notes what it is asked to do."""

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

    def finish(self):
        """Nothing is in flight: each batch was committed at once."""

    def give_back(self, batch):
        self.given_back.append(batch)


class FakeScorer:
    lineup = None
    score = staticmethod(score)


@pytest.fixture
def loop(monkeypatch):
    """`loop(pipe, scorer) -> (stream, metrics)`, with waits that take no time."""
    monkeypatch.setattr("fraudscale.kafka.worker.BACK_OFF_SECONDS", (0.0,))

    def make(pipe, scorer=FakeScorer):
        counts = ModelMetrics()
        settings = KafkaSettings(kafka_topic="in")
        messages = KafkaMetrics(consumed="in", produced=())
        return Stream(pipe, scorer, counts, messages, settings, structlog.get_logger(), PASSING_ON), counts

    return make


def test_a_batch_is_delivered_whole_and_bad_input_is_counted(loop):
    pipe = FakePipe(Batch([record(0), record(1, b"{")], 0.0))
    stream, counts = loop(pipe)
    with capture_logs():
        stream.step()
    ((_, outputs),) = pipe.delivered
    assert [o.topic for o in outputs] == ["in.scored", "in.dead-letter"]
    assert counts.errors.labels("validation").value == 1


def test_bad_input_that_was_not_delivered_is_not_counted_yet(loop):
    stream, counts = loop(FakePipe(Batch([record(1, b"{")], 0.0), fails=1))
    with capture_logs() as lines:
        stream.step()
    assert [line["event"] for line in lines] == ["batch_not_delivered"]
    assert counts.errors.labels("validation").value == 0


def test_a_broken_model_gives_the_batch_back(loop):
    scorer = FakeScorer()
    scorer.score = failing_on("t0")
    pipe = FakePipe(Batch([record(0)], 0.0))
    stream, counts = loop(pipe, scorer)
    with capture_logs() as lines:
        stream.step()
    assert (len(pipe.given_back), pipe.delivered) == (1, [])
    assert [line["event"] for line in lines] == ["model_broken"]
    assert counts.errors.labels("prediction").value == 1
    assert counts.active.labels().value == 0


def test_nothing_is_read_while_there_is_no_model(loop):
    class NoModelYet:
        @property
        def lineup(self):
            stream.stop()

    pipe = FakePipe()
    pipe.read = lambda *_: pytest.fail("a stream without a model has read")
    stream, _ = loop(pipe, NoModelYet())
    stream.run()


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


class Stoppable:
    def __init__(self):
        self.stopped = 0
        self.deadline = None

    def stop(self):
        self.stopped += 1

    def hurry(self, deadline):
        self.deadline = deadline


def test_a_signal_stops_the_stream_and_limits_the_time_for_it(timers):
    part = Stoppable()
    Stop(part, part, 8, structlog.get_logger()).on_signal(15, None)
    assert part.stopped == 1
    assert part.deadline - time.monotonic() == pytest.approx(6, abs=0.5)
    assert [seconds for seconds, _ in timers] == [8]


def test_a_second_signal_ends_the_process_on_the_spot(timers, monkeypatch):
    codes = []
    monkeypatch.setattr("os._exit", codes.append)
    part = Stoppable()
    stop = Stop(part, part, 8, structlog.get_logger())
    stop.on_signal(15, None)
    stop.on_signal(2, None)
    assert [seconds for seconds, _ in timers] == [8, 0]
    with capture_logs() as lines:
        timers[1][1]()
    assert (codes, part.stopped) == ([1], 1)
    assert [line["event"] for line in lines] == ["stop_forced"]


# --- lag


class FakeWatermarks:
    def __init__(self, *answers):
        self.answers = list(answers)

    def oldest(self, waiting):
        return self.timestamp

    timestamp = 0

    def waiting(self):
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def reporter_of(*answers):
    counts = KafkaMetrics(consumed="in", produced=())
    settings = KafkaSettings(kafka_topic="in", kafka_group="g")
    link = Link("kafka:9092", structlog.get_logger())
    return LagReporter(settings, counts, link, FakeWatermarks(*answers)), counts


WAITING = {0: Waiting(0, 10, 4), 1: Waiting(5, 10, None)}


def values(family):
    return {labels: gauge.value for labels, gauge in family._values.items()}


def test_queue_length_counts_all_partitions_and_lag_our_own():
    reporter, counts = reporter_of(WAITING)
    reporter.own(frozenset({1}))
    reporter.report()
    assert values(counts.queue_length) == {("in", "g"): 11}
    assert values(counts.topic_messages) == {("in",): 15}
    assert values(counts.lag) == {("in", "g", "1"): 5}


def test_the_lag_of_a_revoked_partition_vanishes_at_once():
    reporter, counts = reporter_of(WAITING)
    reporter.own(frozenset({0, 1}))
    reporter.report()
    reporter.own(frozenset({0}))
    assert values(counts.lag) == {("in", "g", "0"): 6}


def test_figures_that_cannot_be_known_are_taken_away():
    reporter, counts = reporter_of(WAITING, BrokerUnavailable("gone"))
    reporter.own(frozenset({0}))
    reporter.report()
    with capture_logs():
        reporter.report()
    assert values(counts.queue_length) == values(counts.lag) == values(counts.topic_messages) == {}
    assert values(counts.oldest_age) == values(counts.without_commit) == {}


def test_the_age_is_that_of_the_oldest_waiting_message_and_zero_when_none_waits(monkeypatch):
    monkeypatch.setattr(FakeWatermarks, "timestamp", int((time.time() - 60) * 1000))
    reporter, counts = reporter_of(WAITING, {0: Waiting(0, 10, 10)})
    reporter.report()
    assert values(counts.oldest_age) == {("in", "g"): pytest.approx(60, abs=5)}
    assert values(counts.without_commit) == {("in", "g"): 1}
    reporter.report()
    assert values(counts.oldest_age) == values(counts.without_commit) == {("in", "g"): 0}


def test_a_clock_that_is_ahead_makes_no_age_below_zero_and_an_unread_message_none_at_all(monkeypatch):
    reporter, counts = reporter_of(WAITING, WAITING)
    monkeypatch.setattr(FakeWatermarks, "timestamp", int((time.time() + 60) * 1000))
    reporter.report()
    assert values(counts.oldest_age) == {("in", "g"): 0}
    monkeypatch.setattr(FakeWatermarks, "timestamp", None)
    reporter.report()
    assert values(counts.oldest_age) == {}


def test_a_report_that_fails_in_an_odd_way_takes_the_figures_away_and_the_next_one_is_made():
    reporter, counts = reporter_of(WAITING, ValueError("odd"), WAITING)
    seen = []
    report = reporter.report

    def watched():
        seen.append(values(counts.queue_length))
        if len(seen) == 3:
            reporter._stopping = True
        reporter._changed.set()
        report()

    reporter.report = watched
    with capture_logs():
        reporter._run()
    assert seen == [{}, {("in", "g"): 11}, {}]
    assert values(counts.queue_length) == {("in", "g"): 11}
