"""The W3C trace context, who is sampled, and the spans that come of it."""

import subprocess
import sys
from random import Random

import pytest

from fraudscale.telemetry.tracing import (
    LONGEST_STATE,
    NOT_TRACED,
    BatchTrace,
    Context,
    Span,
    Trace,
    Tracer,
    parse,
)

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00"


@pytest.mark.parametrize(
    ("traceparent", "sampled"),
    {
        "sampled": (SAMPLED, True),
        "not sampled": (UNSAMPLED, False),
        "other flags do not matter": (f"00-{TRACE}-{SPAN}-02", False),
        "all flags": (f"00-{TRACE}-{SPAN}-ff", True),
        "a later version": (f"01-{TRACE}-{SPAN}-01", True),
        "a later version with more": (f"cc-{TRACE}-{SPAN}-01-what.the.future-will:be", True),
    }.values(),
)
def test_a_callers_place_is_read(traceparent, sampled):
    assert parse(traceparent.encode()) == Context(TRACE, SPAN, sampled)


@pytest.mark.parametrize(
    "traceparent",
    {
        "nothing": "",
        "version ff": f"ff-{TRACE}-{SPAN}-01",
        "no version": f"{TRACE}-{SPAN}-01",
        "a trace of zeros": f"00-{'0' * 32}-{SPAN}-01",
        "a span of zeros": f"00-{TRACE}-{'0' * 16}-01",
        "upper case in the trace": f"00-{TRACE.upper()}-{SPAN}-01",
        "upper case in the span": f"00-{TRACE}-{SPAN.upper()}-01",
        "upper case in the flags": f"00-{TRACE}-{SPAN}-0A",
        "upper case in the version": f"CC-{TRACE}-{SPAN}-01",
        "a short trace": f"00-{TRACE[:-1]}-{SPAN}-01",
        "a long trace": f"00-{TRACE}0-{SPAN}-01",
        "a short span": f"00-{TRACE}-{SPAN[:-1]}-01",
        "no flags": f"00-{TRACE}-{SPAN}",
        "one flag": f"00-{TRACE}-{SPAN}-1",
        "version 00 with more": f"00-{TRACE}-{SPAN}-01-more",
        "version 00 with a dash more": f"00-{TRACE}-{SPAN}-01-",
        "a later version with more, but no dash": f"01-{TRACE}-{SPAN}-01more",
        "a later version of absurd length": f"01-{TRACE}-{SPAN}-01-{'x' * 300}",
        "no hexadecimal digit": f"00-{'g' * 32}-{SPAN}-01",
        "digits of another script": f"00-{TRACE}-{SPAN}-٠١",
        "space": f" {SAMPLED}",
        "a line break": f"{SAMPLED}\n",
    }.values(),
)
def test_what_is_no_place_is_none(traceparent):
    assert parse(traceparent.encode()) is None


def test_a_place_is_written_as_it_is_read():
    for text in (SAMPLED, UNSAMPLED):
        assert parse(text.encode()).traceparent == text
    assert parse(f"01-{TRACE}-{SPAN}-01-more".encode()).traceparent == SAMPLED, "in the version that we speak"


def test_a_tracestate_is_kept_unless_it_is_too_long():
    assert parse(SAMPLED.encode(), b"vendor=a,other=b").state == "vendor=a,other=b"
    assert parse(SAMPLED.encode(), b"v=" + b"x" * (LONGEST_STATE - 2)).state
    assert parse(SAMPLED.encode(), b"v=" + b"x" * (LONGEST_STATE - 1)).state == ""


class Recorder:
    """A tracer, and what it recorded."""

    def __init__(self, ratio=0.0, callers=50, *, exports=True):
        self.calls: list[list[Span]] = []
        self.tracer = Tracer(ratio, callers, self.calls.append if exports else None, Random(7))

    def request(self, traceparent=None, now=0.0, **more) -> Trace | None:
        headers = [(b"host", b"x")]
        headers += [(b"traceparent", traceparent.encode())] if traceparent else []
        return self.tracer.of_request([*headers, *more.items()], now)


# --- who is sampled


def test_without_an_exporter_and_without_a_caller_there_is_no_trace():
    assert Recorder(1.0, exports=False).request() is None


def test_without_an_exporter_a_callers_trace_is_passed_on_as_it_came():
    for text in (SAMPLED, UNSAMPLED):
        trace = Recorder(1.0, exports=False).request(text)
        assert trace.here.traceparent == text
        assert trace.sampled == (text == SAMPLED), "whoever keeps the caller's trace has something to show"
        assert not trace.recorded


def test_a_callers_flag_is_followed_whatever_the_ratio_is():
    assert Recorder(0.0).request(SAMPLED).recorded
    unsampled = Recorder(1.0).request(UNSAMPLED)
    assert not unsampled.recorded
    assert unsampled.here.traceparent == UNSAMPLED


def test_our_span_is_a_new_one_in_the_callers_trace():
    trace = Recorder().request(SAMPLED)
    assert (trace.here.trace_id, trace.caller.span_id) == (TRACE, SPAN)
    assert trace.here.span_id != SPAN
    assert trace.here.sampled
    assert trace.ids() == {"trace_id": TRACE, "span_id": trace.here.span_id}


@pytest.mark.parametrize("ratio", [0.0, 0.01, 0.5, 1.0])
def test_the_ratio_samples_the_ids_that_opentelemetry_samples(ratio):
    from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased

    recorder, theirs = Recorder(ratio), TraceIdRatioBased(ratio)
    traces = [trace for _ in range(2000) if (trace := recorder.request())]
    assert len(traces) == pytest.approx(2000 * ratio, abs=100)
    for trace in traces:
        decision = theirs.should_sample(None, int(trace.here.trace_id, 16), "x").decision
        assert decision is Decision.RECORD_AND_SAMPLE
        assert trace.caller is None


def test_the_flags_of_callers_are_heeded_at_a_rate():
    recorder = Recorder(callers=10)
    at_once = [recorder.request(SAMPLED, now=1.0) for _ in range(1000)]
    assert sum(trace.recorded for trace in at_once) == 10
    refused = at_once[-1]
    assert not refused.sampled
    assert refused.here.traceparent == SAMPLED, "it is passed on, so that others may decide otherwise"
    later = [recorder.request(SAMPLED, now=2.0) for _ in range(1000)]
    assert sum(trace.recorded for trace in later) == 10


def test_no_flag_is_heeded_if_so_set():
    assert not Recorder(callers=0).request(SAMPLED).sampled


def test_a_bad_or_doubled_traceparent_is_none():
    assert Recorder().request("00-bad") is None
    twice = [(b"traceparent", SAMPLED.encode()), (b"traceparent", UNSAMPLED.encode())]
    assert Recorder().tracer.of_request(twice, 0.0) is None
    assert Recorder(1.0).tracer.of_request(twice, 0.0).here.trace_id != TRACE, "a trace of our own"


def test_several_tracestate_headers_are_one_list():
    headers = [(b"traceparent", SAMPLED.encode()), (b"tracestate", b"a=1"), (b"tracestate", b"b=2")]
    assert Recorder().tracer.of_request(headers, 0.0).here.state == "a=1,b=2"


@pytest.mark.parametrize("value", [SAMPLED, SAMPLED.encode()])
def test_a_record_is_traced_by_its_last_header(value):
    of_record = Recorder().tracer.of_record
    trace = of_record([("traceparent", UNSAMPLED), ("own", None), ("traceparent", value)], 0.0)
    assert trace.caller == Context(TRACE, SPAN, sampled=True)
    assert of_record([("traceparent", None)], 0.0) is None
    assert of_record([("traceparent", b"\xff")], 0.0) is None


# --- spans


def test_a_span_has_its_stages_below_it():
    recorder = Recorder()
    trace = recorder.request(SAMPLED)
    trace.mark("decode", 1.0, 1.5)
    trace.mark("model", 1.5, 1.75)
    recorder.tracer.end(trace, "POST /predict", "server", (1.0, 2.0), {"http.route": "/predict"}, failed=True)
    ((ours, *below),) = recorder.calls
    assert ours == Span(
        "POST /predict", "server", trace.here, trace.caller, 1.0, 2.0, {"http.route": "/predict"}, (), True
    )
    assert [(s.name, s.started, s.ended, s.caller) for s in below] == [
        ("decode", 1.0, 1.5, trace.here),
        ("model", 1.5, 1.75, trace.here),
    ]
    assert len({s.here.span_id for s in (ours, *below)}) == 3
    assert {s.here.trace_id for s in (ours, *below)} == {TRACE}


def test_what_is_not_recorded_makes_no_span():
    recorder = Recorder()
    trace = recorder.request(UNSAMPLED)
    trace.mark("decode", 1.0, 2.0)
    recorder.tracer.end(trace, "POST /predict", "server", (1.0, 2.0), {})
    assert not recorder.calls
    assert not trace.stages


def test_without_an_endpoint_opentelemetry_is_not_imported():
    code = (
        "import sys, fraudscale.serve, fraudscale.kafka.worker\n"
        "from fraudscale.telemetry import spans\n"
        "from fraudscale.config import TracingSettings\n"
        "settings = TracingSettings(otel_exporter_otlp_endpoint='http://x', otel_sdk_disabled=True)\n"
        "spans.start(settings, process='serve', replica_id='r', counts=None, log=None)\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry.sdk')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


# --- what is scored together


def traced(trace_id, state="", **more) -> Trace:
    return Trace(Context(trace_id * 32, SPAN, sampled=True, state=state), **more)


def test_a_batch_gives_each_transaction_its_own_trace():
    batch = BatchTrace({1: traced("a"), 3: traced("b", "v=1")})
    assert [batch.ids(i).get("trace_id") for i in range(4)] == [None, "a" * 32, None, "b" * 32]
    assert batch.headers(0) == []
    assert batch.headers(1) == [("traceparent", f"00-{'a' * 32}-{SPAN}-01")]
    assert batch.headers(3) == [("traceparent", f"00-{'b' * 32}-{SPAN}-01"), ("tracestate", "v=1")]


def test_a_part_of_a_batch_counts_anew():
    picked = BatchTrace({1: traced("a"), 3: traced("b")}).pick([0, 3, 2])
    assert [picked.ids(i).get("trace_id") for i in range(3)] == [None, "b" * 32, None]
    assert NOT_TRACED.pick([0, 3]) is NOT_TRACED


def test_a_request_of_many_transactions_has_each_stage_once():
    one = traced("a", recorded=True)
    BatchTrace({0: one, 1: one}).mark("model", 1.0, 2.0)
    assert [stage.name for stage in one.stages] == ["model"]


def test_only_a_sampled_trace_is_an_exemplar():
    assert BatchTrace({0: traced("a")}).exemplar() == {}
    assert BatchTrace({0: traced("a"), 1: traced("b", sampled=True)}).exemplar()["trace_id"] == "b" * 32


def test_what_fails_is_noted_where_it_is_recorded():
    kept, passed_on = traced("a", recorded=True), traced("b")
    batch = BatchTrace({0: kept, 1: passed_on})
    for i in range(3):
        batch.fail(i, {"why": "x"})
    assert (kept.failed, kept.about, passed_on.failed, passed_on.about) == (True, {"why": "x"}, False, {})
    assert batch.recorded() == [(0, kept)]
