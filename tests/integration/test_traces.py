"""Traces over HTTP: a replica of its own process, and a collector that takes what it sends."""

import http.client
import json
import os
import secrets
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from collector import Collector
from fraudscale.local.install.ports import Ports, claim_block
from fraudscale.registry.copies import store, write_pointer
from fraudscale.scoring.model import Version
from sinks import serving

SPAN = "00f067aa0ba902b7"
GOOD = {
    "transaction_id": "tx-1",
    "amount": 12.5,
    "merchant_category": "grocery",
    "hour": 14,
    "day_of_week": 2,
    "user_age": 41,
    "account_balance": 80.25,
}
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def wait_for(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
    return found


@dataclass
class Replica:
    port: int
    process: subprocess.Popen
    log: Path

    def ask(self, method, path, body=None, **headers):
        """Status, headers and content."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            content = None if body is None else json.dumps(body)
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, content, {"content-type": "application/json"} | named)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def lines(self, event, trace_id=None):
        """The lines of an event, of one trace if given."""
        lines = [json.loads(line) for line in self.log.read_bytes().splitlines()]
        return [ln for ln in lines if ln["event"] == event and trace_id in {None, ln.get("trace_id")}]

    def metrics(self):
        """All samples by name, with their exemplars."""
        _, _, body = self.ask("GET", "/metrics", accept=OPENMETRICS)
        found = {}
        for family in text_string_to_metric_families(body.decode()):
            for sample in family.samples:
                found.setdefault(sample.name, []).append(sample)
        return found

    def spans(self, result):
        (value,) = [s.value for s in self.metrics()["trace_spans_total"] if s.labels["result"] == result]
        return value

    def exemplars(self, name):
        return [s.exemplar.labels for s in self.metrics()[f"{name}_bucket"] if s.exemplar]

    def stop(self):
        """Tell it to stop; fail if that takes longer than its stop timeout, with the time of a busy machine."""
        self.process.terminate()
        return self.process.wait(20)


@contextmanager
def running_replica(make_artifact, folder, **settings):
    """A replica that serves from a local copy."""
    cache = folder / "models"
    version = Version("7", "champion", make_artifact(cache / "draft"))
    store(cache, cache / "draft", version)
    write_pointer(cache, version)
    with claim_block() as base, (folder / "log").open("wb") as log:
        port = Ports.at(base).serve[0]
        env = os.environ | {
            "HTTP_PORT": str(port),
            "REPLICA_ID": "replica-1",
            "MODEL_CACHE_DIR": str(cache),
            "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
            "TRUSTED_CLIENTS": "127.0.0.1",
            "LOG_FORMAT": "json",
            "STOP_TIMEOUT_SECONDS": "4",
            "OTEL_BSP_SCHEDULE_DELAY": "50",
            **settings,
        }
        process = subprocess.Popen([sys.executable, "-m", "fraudscale.cli", "serve"], stdout=log, env=env)
        running = Replica(port, process, folder / "log")
        try:
            wait_for(lambda: _answers(running))
            yield running
        finally:
            process.kill()
            process.wait(10)


@pytest.fixture
def replica(make_artifact, tmp_path):
    """Start a replica of the test's own, with settings."""
    return lambda **settings: running_replica(make_artifact, tmp_path, **settings)


@pytest.fixture(scope="module")
def traced(make_artifact, tmp_path_factory):
    """A replica that only callers have sampled, and its collector; a test uses a trace of its own."""
    with (
        serving(Collector()) as collector,
        running_replica(
            make_artifact,
            tmp_path_factory.mktemp("traced"),
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.address,
            OTEL_EXPORTER_OTLP_HEADERS="x-token=a%20secret",
            OTEL_RESOURCE_ATTRIBUTES="deployment.environment.name=test",
            OTEL_TRACES_SAMPLER_ARG="0",
        ) as running,
    ):
        yield running, collector


@pytest.fixture
def trace_id():
    return secrets.token_hex(16)


@pytest.fixture
def sampled(trace_id):
    return f"00-{trace_id}-{SPAN}-01"


def _answers(replica):
    assert replica.process.poll() is None, replica.log.read_text()
    try:
        return replica.ask("GET", "/readyz")[0] == 200
    except OSError:
        return False


def spans_of(collector, trace_id, count):
    """Wait for the spans of a trace, by name."""
    return wait_for(lambda: (found := collector.of(trace_id)) and len(found) == count and found)


def test_a_sampled_request_becomes_spans_below_its_caller(traced, trace_id, sampled):
    running, collector = traced
    before = time.time_ns()
    status, headers, _ = running.ask(
        "POST", "/predict", GOOD, traceparent=sampled, tracestate="vendor=opaque"
    )
    spans = spans_of(collector, trace_id, 3)
    after = time.time_ns()
    assert status == 200
    ours, decode, model = spans["POST /predict"], spans["decode"], spans["model"]
    assert (ours.kind, ours.parent, ours.state) == ("server", SPAN, "vendor=opaque")
    assert ours.attributes == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "http.route": "/predict",
        "fraudscale.transaction_id": "tx-1",
        "fraudscale.model_version": "7",
    }
    assert decode.parent == model.parent == ours.span_id
    clock = 1_000_000  # two clocks of a machine agree to a millisecond
    assert before - clock <= ours.started <= decode.ended <= model.started <= model.ended <= ours.ended
    assert ours.ended <= after + clock
    assert (
        ours.resource.items()
        >= {
            "service.name": "ml-model",
            "service.instance.id": "replica-1",
            "fraudscale.process": "serve",
            "deployment.environment.name": "test",
        }.items()
    )
    assert collector.headers[0]["x-token"] == "a secret"
    assert headers["traceparent"] == f"00-{trace_id}-{ours.span_id}-01"
    (line,) = running.lines("prediction_made", trace_id)
    assert line["span_id"] == ours.span_id
    for name in ("http_request_duration_seconds", "ml_model_prediction_duration"):
        assert {"trace_id": trace_id, "span_id": ours.span_id} in running.exemplars(name)


def test_a_request_that_is_not_sampled_is_logged_with_its_trace_and_no_more(traced, trace_id, sampled):
    running, collector = traced
    unsampled = sampled.removesuffix("1") + "0"
    _, headers, _ = running.ask("POST", "/predict", GOOD, traceparent=unsampled)
    _, without, _ = running.ask("POST", "/predict", GOOD | {"transaction_id": "without"})
    other = secrets.token_hex(16)
    running.ask("POST", "/predict", GOOD, traceparent=f"00-{other}-{SPAN}-01")
    spans_of(collector, other, 3)
    assert headers["traceparent"] == unsampled
    assert "traceparent" not in without
    (line,) = running.lines("prediction_made", trace_id)
    assert line["span_id"] == SPAN
    lines = running.lines("prediction_made")
    assert "trace_id" not in next(line for line in lines if line["transaction_id"] == "without")
    assert not collector.of(trace_id)
    shown = running.exemplars("http_request_duration_seconds")
    assert trace_id not in {exemplar["trace_id"] for exemplar in shown}


def test_a_batch_is_one_span_and_all_its_lines_name_it(traced, trace_id, sampled):
    running, collector = traced
    batch = {"transactions": [GOOD | {"transaction_id": f"tx-{i}"} for i in range(3)]}
    _, headers, _ = running.ask("POST", "/predict/batch", batch, traceparent=sampled)
    spans = spans_of(collector, trace_id, 3)
    ours = spans["POST /predict/batch"]
    assert headers["traceparent"] == f"00-{trace_id}-{ours.span_id}-01"
    assert spans["decode"].parent == spans["model"].parent == ours.span_id
    lines = running.lines("prediction_made", trace_id)
    assert [(line["transaction_id"], line["span_id"]) for line in lines] == [
        (f"tx-{i}", ours.span_id) for i in range(3)
    ]


@pytest.mark.parametrize(
    ("method", "path", "status", "name"),
    [
        ("POST", "/predict", 422, "POST /predict"),
        ("POST", "/predict/batch", 422, "POST /predict/batch"),
        ("GET", "/predict", 405, "GET /predict"),
        ("GET", "/nothing/here", 404, "GET unmatched"),
    ],
)
def test_an_error_is_a_span_too(traced, trace_id, sampled, method, path, status, name):
    running, collector = traced
    got, headers, _ = running.ask(method, path, {"hour": "x"}, traceparent=sampled)
    span = wait_for(lambda: collector.of(trace_id).get(name))
    assert got == span.attributes["http.response.status_code"] == status
    assert headers["traceparent"] == f"00-{trace_id}-{span.span_id}-01"
    assert not span.failed, "a client's mistake is none of ours"


def test_without_a_collector_a_callers_trace_is_still_passed_on_logged_and_shown(replica, trace_id, sampled):
    with replica() as running:
        _, headers, _ = running.ask("POST", "/predict", GOOD, traceparent=sampled)
        assert headers["traceparent"] == sampled
        (line,) = running.lines("prediction_made")
        assert (line["trace_id"], line["span_id"]) == (trace_id, SPAN)
        assert running.exemplars("http_request_duration_seconds") == [{"trace_id": trace_id, "span_id": SPAN}]


def test_roots_are_sampled_probes_are_not_and_what_waits_is_sent_before_the_end(replica, sampled):
    with (
        serving(Collector()) as collector,
        replica(
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.address,
            OTEL_TRACES_SAMPLER="parentbased_always_on",
            OTEL_BSP_SCHEDULE_DELAY="600000",
        ) as running,
    ):
        for path in ("/livez", "/readyz", "/metrics"):
            assert "traceparent" not in running.ask("GET", path, traceparent=sampled)[1]
        running.ask("POST", "/predict", GOOD)
        assert not collector.spans
        assert running.stop() == 0
        assert {span.name for span in collector.spans} == {"POST /predict", "decode", "model"}
        (root,) = [span for span in collector.spans if not span.parent]
        assert root.kind == "server"


def test_a_collector_that_does_not_answer_delays_no_answer_and_no_stop(replica):
    with (
        serving(Collector(hangs=True)) as silent,
        replica(
            OTEL_EXPORTER_OTLP_ENDPOINT=silent.address,
            OTEL_TRACES_SAMPLER_ARG="1",
            OTEL_BSP_MAX_QUEUE_SIZE="30",
        ) as running,
    ):
        assert running.ask("POST", "/predict", GOOD)[0] == 200
        assert silent.asked.wait(30), "it has our spans now, and will never say so"
        for _ in range(50):
            assert running.ask("POST", "/predict", GOOD)[0] == 200
        assert running.spans("exported") == 0
        assert running.spans("dropped") >= 51 * 3 - 2 * 30
        assert running.stop() == 0
        assert running.lines("serve_stopped")


def test_a_collector_that_is_not_there_is_one_line_of_the_log(replica):
    with replica(
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9",
        OTEL_EXPORTER_OTLP_TIMEOUT="200",
        OTEL_TRACES_SAMPLER_ARG="1",
    ) as running:
        for wanted in (3, 6, 9):
            assert running.ask("POST", "/predict", GOOD)[0] == 200
            wait_for(lambda wanted=wanted: running.spans("failed") == wanted)
        (line,) = running.lines("spans_not_exported")
        assert line["endpoint"] == "http://127.0.0.1:9/v1/traces"
        assert line["reason"]
        assert not running.lines("library_message")
        assert running.stop() == 0
