"""The table of metrics, the groups of them that a process builds for itself, and what it shows of itself."""

import time
from collections.abc import Iterator, Sequence
from typing import Final

import psutil
from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric as ClientMetric
from prometheus_client.registry import Collector

from fraudscale.counting import Counter, Family, Gauge, Histogram, Metric, MetricGroup

disable_created_metrics()  # type: ignore[no-untyped-call]


MODEL_SECONDS: Final = (
    *(1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0),
)
# 2.0 is an edge because an alert asks for the share above 2 s; 30 because a top edge below the worst hides it.
HTTP_SECONDS: Final = (*(5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0),)
LOAD_SECONDS: Final = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0)
PROBABILITY: Final = (
    *(0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0),
)
CONFIDENCE: Final = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 1.0)

PREDICTIONS = Metric("ml_model_predictions_total", "counter", "Transactions scored.", ("version", "result"))
PREDICTION_DURATION = Metric(
    "ml_model_prediction_duration",
    "histogram",
    "Seconds of the model pass that scored a transaction; one observation per transaction.",
    edges=MODEL_SECONDS,
)
FRAUD_PROBABILITY = Metric(
    "ml_model_fraud_probability",
    "histogram",
    "Calibrated probability of fraud, one observation per transaction.",
    edges=PROBABILITY,
)
CONFIDENCE_SCORE = Metric(
    "ml_model_confidence_score", "histogram", "Confidence of a prediction, max(p, 1 - p).", edges=CONFIDENCE
)
MODEL_ERRORS = Metric(
    "ml_model_errors_total",
    "counter",
    "Errors by type: validation (the input is no transaction), prediction (the model failed), system (a model could not be loaded).",
    ("error_type",),
)
FAILED_PREDICTIONS = Metric(
    "ml_model_failed_predictions_total",
    "counter",
    "Valid transactions that got no score: the model failed on them, there was none, or too much waited (503).",
)
UNKNOWN_CATEGORIES = Metric(
    "ml_model_unknown_categories_total",
    "counter",
    'Transactions with a merchant category that the model does not know; they are scored as "other".',
)
ACTIVE_REQUESTS = Metric(
    "ml_model_active_requests", "gauge", "Transactions that are accepted and not yet scored."
)
LOAD_DURATION = Metric(
    "ml_model_load_duration_seconds",
    "histogram",
    "Seconds to load a model (fetch if needed, verify, check parity, warm up); failed loads count too.",
    edges=LOAD_SECONDS,
)
LOADS = Metric("ml_model_loads_total", "counter", "Attempts to load a model, by result.", ("result",))
MODEL_INFO = Metric("ml_model_info", "gauge", "1 for the model version that serves.", ("version", "alias"))
WANTED_INFO = Metric(
    "ml_model_wanted_info",
    "gauge",
    "1 for the model version that the alias or the pin asks for; absent while it names none.",
    ("version", "alias"),
)
REGISTRY_UP = Metric(
    "ml_model_registry_up",
    "gauge",
    "1 if the registry answered when it was asked last, 0 if not; absent before that.",
)
MEMORY_USAGE = Metric("ml_model_memory_usage", "gauge", "Resident memory of the process, bytes.")
CPU_USAGE = Metric(
    "ml_model_cpu_usage", "gauge", "CPU of the process since the last scrape, percent of its CPU request."
)
CPU_REQUEST = Metric("ml_model_cpu_request_cores", "gauge", "CPU request of the process, cores.")

HTTP_REQUESTS = Metric(
    "http_requests_total", "counter", "HTTP requests that were answered.", ("method", "status", "endpoint")
)
HTTP_DURATION = Metric(
    "http_request_duration_seconds",
    "histogram",
    "Seconds from the head of a request to the end of its answer; refusals by rate (429) do not count.",
    ("method", "endpoint"),
    HTTP_SECONDS,
)
HTTP_IN_PROGRESS = Metric(
    "http_requests_in_progress", "gauge", "HTTP requests that are being answered, but for probes and scrapes."
)
HTTP_ERRORS = Metric(
    "http_errors_total",
    "counter",
    "HTTP answers with an error status, 4xx or 5xx; a readiness probe that is told no is none.",
    ("status_class",),
)

QUEUE_LENGTH = Metric(
    "kafka_queue_length",
    "gauge",
    "Messages of all partitions that wait to be scored by the group; every exporter reports the same total.",
    ("topic", "group"),
)
CONSUMER_LAG = Metric(
    "kafka_consumer_lag",
    "gauge",
    "Messages of a partition that wait to be scored, reported by the partition's owner: end offset - offset of the first one.",
    ("topic", "group", "partition"),
)
TOPIC_MESSAGES = Metric(
    "kafka_topic_messages", "gauge", "Messages that the topic retains, all partitions.", ("topic",)
)
MESSAGES_CONSUMED = Metric(
    "kafka_messages_consumed_total",
    "counter",
    "Messages that were read, and whose outcome was committed.",
    ("topic",),
)
MESSAGES_PRODUCED = Metric(
    "kafka_messages_produced_total", "counter", "Messages that were written and committed.", ("topic",)
)
MESSAGES_SKIPPED = Metric(
    "kafka_messages_skipped_total",
    "counter",
    "Messages that nobody could unpack, and that were not scored; one dead letter names each range of them.",
    ("topic",),
)
OLDEST_MESSAGE_AGE = Metric(
    "kafka_oldest_message_age_seconds",
    "gauge",
    "Seconds since the timestamp of the oldest message that waits to be scored by the group; 0 when none waits.",
    ("topic", "group"),
)
PARTITIONS_WITHOUT_COMMIT = Metric(
    "kafka_partitions_without_commit",
    "gauge",
    "Partitions without a commit of the group; all messages that they retain count as waiting.",
    ("topic", "group"),
)
TRANSACTIONS = Metric(
    "kafka_transactions_total",
    "counter",
    "Kafka transactions, one per batch: committed, or aborted (the batch is read again).",
    ("result",),
)
REBALANCES = Metric(
    "kafka_rebalances_total", "counter", "Changes of the partitions of this group member.", ("kind",)
)
OFFSET_RESETS = Metric(
    "kafka_offset_resets_total",
    "counter",
    "Partitions that did not go on at the group's commit: back, the broker had lost records, and some may be scored twice; lost, retention had removed records before they were scored.",
    ("kind",),
)

# As kube-state-metrics names them, so that one set of alert rules fits the cluster and the machine.
_HPA: Final = ("namespace", "horizontalpodautoscaler")
HPA_CURRENT = Metric(
    "kube_horizontalpodautoscaler_status_current_replicas",
    "gauge",
    "Desired replicas before the last sync.",
    _HPA,
)
HPA_DESIRED = Metric(
    "kube_horizontalpodautoscaler_status_desired_replicas",
    "gauge",
    "Desired replicas after the last sync.",
    _HPA,
)
HPA_MAX = Metric("kube_horizontalpodautoscaler_spec_max_replicas", "gauge", "Maximum of replicas.", _HPA)
HPA_MIN = Metric("kube_horizontalpodautoscaler_spec_min_replicas", "gauge", "Minimum of replicas.", _HPA)
HPA_CONDITION = Metric(
    "kube_horizontalpodautoscaler_status_condition",
    "gauge",
    "1 for the present status of a condition: AbleToScale, ScalingActive, ScalingLimited; each true, false or unknown.",
    (*_HPA, "condition", "status"),
)
HPA_TARGET = Metric(
    "kube_horizontalpodautoscaler_spec_target_metric",
    "gauge",
    "Target of a metric; for utilization in percent of the request.",
    (*_HPA, "metric_name", "metric_target_type"),
)
HPA_SEEN = Metric(
    "kube_horizontalpodautoscaler_status_target_metric",
    "gauge",
    "Value of a metric at the last sync, in the unit of its target; absent while it can't be measured.",
    (*_HPA, "metric_name", "metric_target_type"),
)

TRACE_SPANS = Metric(
    "trace_spans_total",
    "counter",
    "Spans by result: exported, failed (the collector did not take them), dropped (the queue was full).",
    ("result",),
)
LOGS_SHIPPED = Metric("logs_shipped_total", "counter", "Log lines that the store acknowledged.")
LOGS_REJECTED = Metric(
    "logs_rejected_total",
    "counter",
    "Log lines that went to the dead-letter index, by reason: not_json, no_timestamp, mapping (the store refused them).",
    ("reason",),
)
LOGS_REPEATED = Metric(
    "logs_repeated_total", "counter", "Log lines that were sent again although the store had them already."
)
LOGS_DROPPED = Metric(
    "logs_dropped_total", "counter", "Log lines that the dead-letter index refused too; they are lost."
)
LOGS_CUT_UNREAD = Metric(
    "logs_cut_unread_total",
    "counter",
    "Log files that were cut twice before they were read to the end; lines may be missing.",
)
LOGS_FAILURES = Metric(
    "logs_store_failures_total",
    "counter",
    "Requests that the store did not answer or was too busy for; they are tried again.",
)
LOGS_BEHIND = Metric("logs_behind_bytes", "gauge", "Bytes of log files that are not shipped yet.")

METRICS: Final = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
"""All rows, for the reference page and its test."""


class ModelMetrics(MetricGroup):
    """What the scorer and the loader count; the same over HTTP and from Kafka."""

    def __init__(self) -> None:
        self.predictions = Family(PREDICTIONS, Counter)
        self.duration = Family(PREDICTION_DURATION, Histogram)
        self.probability = Family(FRAUD_PROBABILITY, Histogram)
        self.confidence = Family(CONFIDENCE_SCORE, Histogram)
        self.errors = Family(MODEL_ERRORS, Counter, ("validation",), ("prediction",), ("system",))
        self.failed = Family(FAILED_PREDICTIONS, Counter)
        self.unknown_categories = Family(UNKNOWN_CATEGORIES, Counter)
        self.active = Family(ACTIVE_REQUESTS, Gauge)
        self.load_duration = Family(LOAD_DURATION, Histogram)
        self.loads = Family(LOADS, Counter, ("success",), ("failure",))
        self.info = Family(MODEL_INFO, Gauge)
        self.wanted = Family(WANTED_INFO, Gauge)
        self.registry_up = Family(REGISTRY_UP, Gauge)
        self.registry_up.retain([])


class HttpMetrics(MetricGroup):
    """What the HTTP endpoint counts."""

    def __init__(self) -> None:
        predict = [
            ("POST", status, endpoint)
            for endpoint in ("/predict", "/predict/batch")
            for status in ("200", "422", "429", "500", "503")
        ]
        self.requests = Family(HTTP_REQUESTS, Counter, *predict)
        self.duration = Family(HTTP_DURATION, Histogram, ("POST", "/predict"), ("POST", "/predict/batch"))
        self.in_progress = Family(HTTP_IN_PROGRESS, Gauge)
        self.errors = Family(HTTP_ERRORS, Counter, ("4xx",), ("5xx",))


class QueueMetrics(MetricGroup):
    """What only the broker knows: queue, lag, ages."""

    def __init__(self) -> None:
        self.queue_length = Family(QUEUE_LENGTH, Gauge)
        self.lag = Family(CONSUMER_LAG, Gauge)
        self.topic_messages = Family(TOPIC_MESSAGES, Gauge)
        self.oldest_age = Family(OLDEST_MESSAGE_AGE, Gauge)
        self.without_commit = Family(PARTITIONS_WITHOUT_COMMIT, Gauge)


class KafkaMetrics(QueueMetrics):
    """What the Kafka consumer counts, and what it asks the broker."""

    def __init__(self, *, consumed: str, produced: Sequence[str]) -> None:
        super().__init__()
        self.consumed = Family(MESSAGES_CONSUMED, Counter, (consumed,))
        self.produced = Family(MESSAGES_PRODUCED, Counter, *[(topic,) for topic in produced])
        self.skipped = Family(MESSAGES_SKIPPED, Counter, (consumed,))
        self.transactions = Family(TRANSACTIONS, Counter, ("committed",), ("aborted",))
        self.rebalances = Family(REBALANCES, Counter, ("assigned",), ("revoked",), ("lost",))
        self.offset_resets = Family(OFFSET_RESETS, Counter, ("back",), ("lost",))


class TraceMetrics(MetricGroup):
    """Spans by result; `dropped` is counted by the thread that makes them, the others by the one that sends."""

    def __init__(self) -> None:
        self.spans = Family(TRACE_SPANS, Counter, ("exported",), ("failed",), ("dropped",))


class HpaMetrics(MetricGroup):
    """What the autoscaler exports, as kube-state-metrics does for an HPA."""

    def __init__(self) -> None:
        self.current = Family(HPA_CURRENT, Gauge)
        self.desired = Family(HPA_DESIRED, Gauge)
        self.max = Family(HPA_MAX, Gauge)
        self.min = Family(HPA_MIN, Gauge)
        self.condition = Family(HPA_CONDITION, Gauge)
        self.target = Family(HPA_TARGET, Gauge)
        self.seen = Family(HPA_SEEN, Gauge)


class LogShippingMetrics(MetricGroup):
    """What the shipper of log lines counts."""

    def __init__(self, reasons: Sequence[str]) -> None:
        self.shipped = Family(LOGS_SHIPPED, Counter)
        self.rejected = Family(LOGS_REJECTED, Counter, *[(reason,) for reason in reasons])
        self.repeated = Family(LOGS_REPEATED, Counter)
        self.dropped = Family(LOGS_DROPPED, Counter)
        self.cut_unread = Family(LOGS_CUT_UNREAD, Counter)
        self.failures = Family(LOGS_FAILURES, Counter)
        self.behind = Family(LOGS_BEHIND, Gauge)


class ProcessMetrics(Collector):
    """Memory and CPU of this process, read at scrape."""

    def __init__(self, cpu_request_millicores: int) -> None:
        self._request = cpu_request_millicores / 1000
        self._process = psutil.Process()
        self._at, self._seconds, self._percent = time.monotonic(), self._cpu_seconds(), 0.0

    def collect(self) -> Iterator[ClientMetric]:
        now, seconds = time.monotonic(), self._cpu_seconds()
        # Two scrapers a moment apart would measure noise: they get the same figure.
        if now - self._at >= 1:
            self._percent = 100 * (seconds - self._seconds) / (now - self._at) / self._request
            self._at, self._seconds = now, seconds
        yield GaugeMetricFamily(MEMORY_USAGE.name, MEMORY_USAGE.help, value=self._process.memory_info().rss)
        yield GaugeMetricFamily(CPU_USAGE.name, CPU_USAGE.help, value=self._percent)
        yield GaugeMetricFamily(CPU_REQUEST.name, CPU_REQUEST.help, value=self._request)

    def _cpu_seconds(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)


def replica_registry(cpu_request_millicores: int, *collectors: Collector) -> CollectorRegistry:
    """Make the registry of a process of a replica: the given metrics, and those about the process itself."""
    return process_registry(ProcessMetrics(cpu_request_millicores), *collectors)


def process_registry(*collectors: Collector) -> CollectorRegistry:
    """Make the registry of a process that is no replica's."""
    result = CollectorRegistry()
    for collector in collectors:
        result.register(collector)
    ProcessCollector(registry=result)
    PlatformCollector(registry=result)
    GCCollector(registry=result)
    return result


def exposition(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """Render all metrics in the best format that the `Accept` header names: body and content type."""
    try:
        encode, content_type = choose_encoder(accept)
    except (TypeError, ValueError):  # a part of the version is no number, and is compared with one
        encode, content_type = choose_encoder("")
    return encode(registry), content_type
