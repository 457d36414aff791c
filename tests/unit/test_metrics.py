import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from fraudscale import metrics
from fraudscale.counting import Counter, Family, Gauge, Histogram, Metric
from fraudscale.metrics import HttpMetrics, KafkaMetrics, ModelMetrics

EXAMPLE = Metric("example_seconds", "histogram", "Example.", ("door",), (0.5, 2.0))


def collected(*collectors):
    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    return registry


def test_series_that_rules_read_exist_from_the_start():
    registry = collected(ModelMetrics(), HttpMetrics(), KafkaMetrics(consumed="t", produced=["t.scored"]))
    for name, labels in [
        ("ml_model_errors_total", {"error_type": "validation"}),
        ("ml_model_errors_total", {"error_type": "system"}),
        ("ml_model_failed_predictions_total", {}),
        ("ml_model_loads_total", {"result": "failure"}),
        ("http_errors_total", {"status_class": "5xx"}),
        ("http_requests_total", {"method": "POST", "status": "503", "endpoint": "/predict"}),
        ("http_request_duration_seconds_count", {"method": "POST", "endpoint": "/predict"}),
        ("kafka_messages_consumed_total", {"topic": "t"}),
        ("kafka_messages_produced_total", {"topic": "t.scored"}),
    ]:
        assert registry.get_sample_value(name, labels) == 0, name


def test_a_bucket_includes_its_edge_and_counts_are_cumulative():
    histogram = Histogram(EXAMPLE)
    for value in (0.5, 0.6, 2.0, 9.0):
        histogram.observe(value)
    family = Family(EXAMPLE, Histogram)
    family._values[("http",)] = histogram
    buckets = {s.labels["le"]: s.value for s in family.collect().samples if s.name.endswith("_bucket")}
    assert buckets == {"0.5": 1, "2.0": 3, "+Inf": 4}


def test_an_observation_can_stand_for_many():
    histogram = Histogram(EXAMPLE)
    histogram.observe(1.0, times=500)
    assert (histogram.counts, histogram.sum) == ([0, 500, 0], 500.0)


@pytest.mark.parametrize("copies", [1, 200])
def test_many_observations_at_once_count_as_each_alone(copies):
    values = [0.5, 0.6, 2.0, 9.0] * copies
    alone, together = Histogram(EXAMPLE), Histogram(EXAMPLE)
    for value in values:
        alone.observe(value)
    together.observe_all(values)
    assert together.counts == alone.counts == [copies, 2 * copies, copies]
    assert together.sum == pytest.approx(alone.sum)


def test_a_bucket_shows_its_latest_example_in_openmetrics_only():
    counts = ModelMetrics()
    seconds = counts.duration.labels()
    for value, trace_id in [(0.0015, "a" * 32), (0.0016, "b" * 32), (99.0, "c" * 32)]:
        seconds.observe(value)
        seconds.exemplify(value, {"trace_id": trace_id, "span_id": "1" * 16})
    registry = collected(counts)
    body, _ = metrics.exposition(registry, "application/openmetrics-text; version=1.0.0")
    samples = {
        s.labels["le"]: s
        for family in openmetrics.text_string_to_metric_families(body.decode())
        for s in family.samples
        if s.name == "ml_model_prediction_duration_bucket"
    }
    assert samples["0.002"].exemplar.labels == {"trace_id": "b" * 32, "span_id": "1" * 16}
    assert samples["0.002"].exemplar.value == 0.0016
    assert samples["+Inf"].exemplar.labels["trace_id"] == "c" * 32
    assert [le for le, sample in samples.items() if sample.exemplar] == ["0.002", "+Inf"]
    body, _ = metrics.exposition(registry, "text/plain")
    assert b"trace_id" not in body


def test_series_that_are_not_retained_are_gone():
    family = Family(metrics.CONSUMER_LAG, Gauge)
    for partition in "012":
        family.labels("t", "g", partition).value = 7
    family.retain([("t", "g", "1")])
    assert [s.labels["partition"] for s in family.collect().samples] == ["1"]


def test_wrong_label_values_are_refused():
    with pytest.raises(ValueError, match="http_requests_total"):
        Family(metrics.HTTP_REQUESTS, Counter).labels("POST")


def test_edges_rise_and_latency_can_be_judged_at_two_seconds():
    for metric in metrics.METRICS:
        assert list(metric.edges) == sorted(set(metric.edges)), metric.name
    assert 2.0 in metrics.HTTP_DURATION.edges
    assert max(metrics.HTTP_DURATION.edges) >= 30


def test_names_follow_the_conventions_of_their_kind():
    for metric in metrics.METRICS:
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric.name
        assert bool(metric.edges) == (metric.kind == "histogram"), metric.name


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text; version=1.0.0"])
def test_the_exposition_speaks_the_format_that_was_asked_for(accept):
    body, content_type = metrics.exposition(metrics.replica_registry(100, ModelMetrics()), accept)
    assert ("openmetrics" in content_type) == bool(accept)
    assert body.endswith(b"# EOF\n") == bool(accept)


@pytest.mark.parametrize("version", ["1.x", "x", "1..0", ".", "9" * 5000, '"1.0.0"', "²", "-", "1.0.0\xa0x"])
@pytest.mark.parametrize("kind", ["text/plain", "application/openmetrics-text"])
def test_a_version_that_is_none_is_as_if_nothing_was_asked_for(kind, version):
    registry = collected(HttpMetrics())
    assert metrics.exposition(registry, f"{kind};version={version}") == metrics.exposition(registry, "")


def test_the_process_reports_its_memory_and_cpu():
    body, _ = metrics.exposition(metrics.replica_registry(100), "")
    values = {f.name: f.samples[0].value for f in text_string_to_metric_families(body.decode()) if f.samples}
    assert values["ml_model_memory_usage"] > 10_000_000
    assert values["ml_model_cpu_usage"] >= 0
    assert values["ml_model_cpu_request_cores"] == 0.1
    assert values["process_resident_memory_bytes"] > 0
