"""Spans on their way to the library: none is lost uncounted, and nothing that a client sends stops one."""

import pytest

from fraudscale.config import TracingSettings
from fraudscale.metrics import TraceMetrics
from fraudscale.telemetry.otlp import Otlp, pairs
from fraudscale.telemetry.tracing import Context, Span


@pytest.fixture
def otlp(caplog, monkeypatch):
    """Nothing answers at its endpoint, and it does not ask before the test is over."""
    counts = TraceMetrics()
    settings = TracingSettings(
        _env_file=None,
        otel_exporter_otlp_endpoint="http://127.0.0.1:9",
        otel_exporter_otlp_timeout=10,
        otel_bsp_max_queue_size=10,
        otel_bsp_schedule_delay=600_000,
    )
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "hidden-token")  # of a form that we ignore
    made = Otlp(settings, "serve", "replica-1", counts, log=None)
    assert "hidden-token" not in caplog.text, "the library tells what it can't read"
    made.counts = counts
    made._sender._log_limiter.allows("")
    yield made
    made.close(10)


def span(state=""):
    here = Context("a" * 32, "b" * 16, sampled=True, state=state)
    return Span("POST /predict", "server", here, None, 1.0, 2.0)


def test_the_spans_of_a_request_wait_together_or_not_at_all(otlp):
    for _ in range(5):
        otlp.record([span()] * 3)
    assert otlp.counts.spans.labels("dropped").value == 6
    otlp.close(10)
    assert otlp.counts.spans.labels("failed").value == 9, "what waited was tried"


@pytest.mark.parametrize("state", ["===,,", "a=1,a=2", "\x00=\x01", "A B=1"])
def test_a_tracestate_that_is_none_stops_no_span(otlp, state):
    otlp.record([span(state)])
    otlp.close(10)
    assert otlp.counts.spans.labels("failed").value == 1


def test_lists_are_read_as_opentelemetry_writes_them():
    assert pairs("a=1, b = x%20y=z,,c=") == {"a": "1", "b": "x y=z", "c": ""}
