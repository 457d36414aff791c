"""What becomes of a batch, decided without a broker."""

from random import Random

import msgspec
import pytest
from scored_records import (
    GOOD,
    OTHER,
    PASSING_ON,
    SAMPLED,
    SPAN,
    UNSAMPLED,
    failing_on,
    record,
    score,
)

from fraudscale.kafka.batch_trace import BatchSpans, trace_of
from fraudscale.kafka.messages import Batch, Record
from fraudscale.kafka.plan import ModelBroken, event_time, plan
from fraudscale.scoring.scorer import PredictionFailed
from fraudscale.telemetry.tracing import Tracer


def planned(records, score=score, *, works=True, tracer=PASSING_ON):
    return plan(Batch(records, 0.0), score, lambda: works, "in.scored", trace_of(records, tracer, 0.0))


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

    def scored(transactions, started, *, trace, final):
        seen.append(
            {transactions[i].transaction_id: one.caller or one.here for i, one in trace.traces.items()}
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
    trace = trace_of(records, tracer, 0.0)
    result = plan(Batch(records, 0.0), score, lambda: True, "in.scored", trace)
    ((_, recorded),) = trace.recorded()
    ours, passed_on = [dict(o.headers)["traceparent"] for o in result.scored]
    assert ours == recorded.here.traceparent != SAMPLED
    assert ours.startswith(SAMPLED[:36])
    assert passed_on == UNSAMPLED


def test_spans_of_a_batch_and_of_its_records_are_linked_both_ways():
    spans = []
    tracer = Tracer(0.0, 50, spans.extend, Random(1))
    batch = Batch([record(0), record(1, headers=[("traceparent", SAMPLED)])], 10.0)
    trace = trace_of(batch.records, tracer, batch.read_at)
    plan(batch, score, lambda: True, "in.scored", trace)
    recorded = [one for _, one in trace.recorded()]
    BatchSpans(tracer, "group", "in", batch.read_at, len(batch.records), recorded, (11.0, 12.0), 13.0).end(
        14.0
    )
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
    assert event_time(milliseconds) == text
